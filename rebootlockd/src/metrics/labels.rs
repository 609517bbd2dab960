//! What labels can say. Every value is a variant here, so that no two places spell it differently.

/// An enum whose variants are the values of a label.
macro_rules! label {
    (
        $(#[$about:meta])*
        $name:ident { $($(#[$meaning:meta])* $variant:ident = $text:literal,)+ }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$meaning])* $variant,)+
        }

        impl $name {
            /// Each one.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The values of all of them.
            pub fn texts() -> Vec<&'static str> {
                Self::ALL.iter().map(|value| value.as_str()).collect()
            }

            /// The label's value.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}

label! {
    /// When the kill switch was looked at.
    Stage {
        /// Before a slot was asked for.
        PreLock = "pre-lock",
        /// With the slot held.
        PostLock = "post-lock",
    }
}

label! {
    /// On which part of the way something was looked at.
    Phase {
        /// Nothing wants a reboot.
        Monitor = "monitor",
        /// For what the other machines are shown.
        Heartbeat = "heartbeat",
        /// A reboot is wanted; before a slot is asked for.
        PreLock = "pre-lock",
        /// With the slot held, up to the permit.
        PostLock = "post-lock",
        /// The machine is back.
        Verify = "verify",
    }
}

impl From<rebootlock::config::gate::Phase> for Phase {
    fn from(phase: rebootlock::config::gate::Phase) -> Self {
        use rebootlock::config::gate::Phase as Asked;
        match phase {
            Asked::Monitor => Self::Monitor,
            Asked::Heartbeat => Self::Heartbeat,
            Asked::PreLock => Self::PreLock,
            Asked::PostLock => Self::PostLock,
            Asked::Verify => Self::Verify,
        }
    }
}

label! {
    /// What became of the kill switch, or of a cooldown.
    Brake {
        /// It does not stop anything.
        Inactive = "inactive",
        /// It stops this machine.
        Active = "active",
        /// It could not be told.
        Error = "error",
    }
}

label! {
    /// What the windows said.
    WindowAnswer {
        /// Go.
        Allowed = "allowed",
        /// A window forbids it.
        Denied = "deny",
        /// Others allow it, at other times.
        OutsideAllow = "outside_allow",
    }
}

label! {
    /// What a detector said.
    Detection {
        /// No reboot is needed.
        Clear = "clear",
        /// One is.
        Requires = "requires",
        /// It could not tell.
        Error = "error",
    }
}

label! {
    /// What a gate said.
    Health {
        /// It is open.
        Pass = "pass",
        /// It is closed.
        Blocked = "blocked",
        /// It could not tell, and so is closed.
        Error = "error",
    }
}

label! {
    /// What the machines' records said about the fleet.
    ClusterHealth {
        /// Well enough to lose one machine.
        Healthy = "healthy",
        /// Not well enough.
        Unhealthy = "unhealthy",
        /// Nothing is asked of the fleet.
        Skipped = "skipped",
        /// It could not be told.
        Error = "error",
    }
}

label! {
    /// How a machine says it is.
    Reported {
        /// Well.
        Healthy = "healthy",
        /// Not well.
        Unhealthy = "unhealthy",
    }
}

label! {
    /// Whether something was written.
    Written {
        /// It was.
        Success = "success",
        /// There was no need.
        Skipped = "skipped",
        /// It failed.
        Error = "error",
    }
}

label! {
    /// Whether something worked.
    Success {
        /// It did.
        Success = "success",
        /// It did not.
        Error = "error",
    }
}

label! {
    /// How asking for slots ended.
    LockAttempt {
        /// With the slots.
        Success = "success",
        /// Others have them.
        Contended = "contended",
        /// The store did not answer, or refused.
        Error = "error",
        /// Nobody wanted them any more.
        Canceled = "canceled",
    }
}

label! {
    /// Which hooks.
    HookPhase {
        /// Before the reboot.
        PreReboot = "pre-reboot",
        /// After it, or to undo the ones before.
        PostReboot = "post-reboot",
    }
}

label! {
    /// How a hook ended.
    HookEnd {
        /// With exit code 0.
        Success = "success",
        /// With another, or by a signal.
        Failure = "failure",
        /// It was killed for taking too long.
        Timeout = "timeout",
        /// It could not be started.
        Error = "error",
    }
}

label! {
    /// How a look after the reboot ended.
    Verification {
        /// The machine is well.
        Passed = "passed",
        /// It is not well yet.
        Failed = "failed",
        /// It was not well for too long: it keeps its slot until a person looks.
        GivenUp = "given_up",
    }
}
