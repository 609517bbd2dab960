//! The reboot policy: states and transitions. Pure.
//!
//! The agent runs one action at a time and answers each with one event, so an answer never meets
//! a state that did not ask. Not knowing is never a yes: an action that cannot find out goes on
//! trying and answers later, and until then nothing happens.
//!
//! ```text
//! Starting ── nothing held ──▶ Idle ── wanted ──▶ Closed ── gates ───▶ Queued ── slot ──▶ Holding
//!    │                          ▲                                        ▲                  │ clear
//!    │ held since before        │                                        │ slot lost        ▼
//!    ▼ this boot                │                                        ├────────────── Draining
//! Verifying ── well ──▶ Releasing ◀── unwanted, obstructed, paused ──────┤                  │ told
//!                               ▲                                        │                  ▼
//!                               └── dry run, or up past every deadline ─ Rebooting ◀──── Permitting
//! ```

/// Where a machine is on its way to a reboot and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Not known yet whether this machine holds a slot.
    Starting,
    /// Nothing wants a reboot.
    Idle,
    /// A reboot is wanted; a window or another gate may be closed.
    Closed,
    /// Waiting for a slot.
    Queued,
    /// Has the slot; everything is looked at once more.
    Holding,
    /// Users are being told, and hooks run.
    Draining,
    /// Asking for the permit.
    Permitting,
    /// Has the permit: the machine may be down at any moment.
    Rebooting,
    /// Back in a new boot, with the slot of the one before.
    Verifying,
    /// Giving the slot back.
    Releasing,
    /// Giving the others a chance before asking again.
    BackingOff,
}

impl State {
    /// As operators read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Closed => "waiting-for-gates",
            Self::Queued => "waiting-for-slot",
            Self::Holding => "holding",
            Self::Draining => "draining",
            Self::Permitting => "permitting",
            Self::Rebooting => "rebooting",
            Self::Verifying => "verifying",
            Self::Releasing => "releasing",
            Self::BackingOff => "backing-off",
        }
    }
}

/// What an action found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// This machine holds no slot of its agent's.
    HoldsNothing,
    /// It holds one from earlier in this boot, without the permit.
    HoldsStill,
    /// It holds one from earlier in this boot, with the permit.
    HoldsPermit,
    /// It holds one with the permit, and may be going down at this moment.
    GoingDown,
    /// It holds one from earlier in this boot that is of no use any more: its groups were changed.
    HoldsOthers,
    /// It holds one from before this boot.
    CameBack,
    /// A slot was found that the store could not tell of before.
    SlotFound,
    /// A reboot is wanted.
    Wanted,
    /// Nothing wants one any more.
    Unwanted,
    /// Windows and gates allow a reboot now.
    GatesOpen,
    /// One of them does not.
    GatesClosed,
    /// The slots are ours, or none are needed.
    SlotGranted,
    /// Somebody else's acquisition holds this machine's slot.
    SlotOccupied,
    /// The slots are not ours any more.
    SlotLost,
    /// Nothing stands in the way.
    Clear,
    /// Something stands in the way and will not go.
    Obstructed,
    /// Users were told and had their time, and the hooks are done.
    Drained,
    /// The permit is written.
    Permitted,
    /// It was, too long ago to be used.
    PermitTooOld,
    /// Somebody paused it.
    Paused,
    /// The reboot was ordered, whether or not the order was answered.
    Ordered,
    /// This is a dry run: the order was not given.
    NotOrdered,
    /// The machine is still up, long after the order.
    StillUp,
    /// Still up, long after, and nothing wants a reboot or is doing one.
    StillUpUnwanted,
    /// The machine is well.
    Well,
    /// The slots are free.
    Released,
    /// The pause is over.
    PauseOver,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Find out whether this machine holds a slot.
    LookAtSlot,
    /// Until a reboot is wanted.
    AwaitWant,
    /// Until windows and gates are open.
    AwaitGates,
    /// Queue, until the slots are ours.
    AskForSlot,
    /// Look at everything once more.
    CheckAgain,
    /// Tell users and give them time; run the hooks.
    Drain,
    /// The last look and the permit, in one.
    AskForPermit,
    /// Order the reboot.
    Reboot,
    /// Until the machine goes down.
    AwaitEnd,
    /// See whether the machine is well.
    Verify,
    /// Give the slots back.
    Release,
    /// Wait a while.
    BackOff,
}

/// An answer to a question nobody asked: a defect of the agent. It is logged, and nothing changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} does not belong to {state:?}")]
pub struct Unexpected {
    /// The state it met.
    pub state: State,
    /// The event.
    pub event: Event,
}

/// The state an agent begins in, and its first action.
pub const START: (State, Action) = (State::Starting, Action::LookAtSlot);

/// The whole reboot policy.
///
/// # Errors
/// [`Unexpected`] for an answer to a question that `state` did not ask.
pub fn step(state: State, event: Event) -> Result<(State, Action), Unexpected> {
    use {Action::*, Event::*, State::*};
    Ok(match (state, event) {
        (Starting, HoldsNothing) => (Idle, AwaitWant),
        (Starting, HoldsStill) => (Holding, CheckAgain),
        // The order may have been given or not; the machine is still up, so it is given again,
        // under a permit that is asked for again.
        (Starting, HoldsPermit) => (Permitting, AskForPermit),
        (Starting, GoingDown) => (Rebooting, AwaitEnd),
        (Starting, HoldsOthers) => (Releasing, Release),
        (Starting, CameBack) => (Verifying, Verify),

        (Idle | Closed, SlotFound) => START,
        (Idle, Wanted) => (Closed, AwaitGates),
        (Closed, GatesOpen) => (Queued, AskForSlot),
        (Closed, Unwanted) => (Idle, AwaitWant),
        (Queued, SlotGranted) => (Holding, CheckAgain),
        (Queued, GatesClosed) => (Closed, AwaitGates),
        (Queued, Unwanted) => (Idle, AwaitWant),
        (Queued, SlotOccupied) => (BackingOff, BackOff),

        (Holding, Clear) => (Draining, Drain),
        (Draining, Drained) => (Permitting, AskForPermit),
        (Permitting, Permitted) => (Rebooting, Reboot),
        // Give the slot back rather than sit on it: another machine may be ready now.
        (Holding | Draining | Permitting, Obstructed | GatesClosed | Unwanted | Paused) => {
            (Releasing, Release)
        }
        // Somebody unlocked this machine: there is nothing to give back.
        (Holding | Draining | Permitting, SlotLost) => (BackingOff, BackOff),

        (Rebooting, Ordered) => (Rebooting, AwaitEnd),
        (Rebooting, NotOrdered) => (Releasing, Release),
        (Rebooting, StillUp | PermitTooOld) => (Permitting, AskForPermit),
        (Rebooting, StillUpUnwanted) => (Releasing, Release),

        (Verifying, Well) => (Releasing, Release),
        (Releasing, Released) => (BackingOff, BackOff),
        (BackingOff, PauseOver) => START,
        _ => return Err(Unexpected { state, event }),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const STATES: [State; 11] = [
        State::Starting,
        State::Idle,
        State::Closed,
        State::Queued,
        State::Holding,
        State::Draining,
        State::Permitting,
        State::Rebooting,
        State::Verifying,
        State::Releasing,
        State::BackingOff,
    ];

    const EVENTS: [Event; 27] = [
        Event::SlotFound,
        Event::HoldsNothing,
        Event::GoingDown,
        Event::HoldsStill,
        Event::HoldsPermit,
        Event::HoldsOthers,
        Event::CameBack,
        Event::Wanted,
        Event::Unwanted,
        Event::GatesOpen,
        Event::GatesClosed,
        Event::SlotGranted,
        Event::SlotOccupied,
        Event::SlotLost,
        Event::Clear,
        Event::Obstructed,
        Event::Drained,
        Event::Permitted,
        Event::PermitTooOld,
        Event::Paused,
        Event::Ordered,
        Event::NotOrdered,
        Event::StillUp,
        Event::StillUpUnwanted,
        Event::Well,
        Event::Released,
        Event::PauseOver,
    ];

    fn every_pair() -> impl Iterator<Item = (State, Event)> {
        STATES.into_iter().flat_map(|state| EVENTS.map(|event| (state, event)))
    }

    #[test]
    fn nothing_reboots_without_a_permit() {
        for (state, event) in every_pair() {
            if let Ok((_, Action::Reboot)) = step(state, event) {
                assert_eq!((state, event), (State::Permitting, Event::Permitted));
            }
        }
    }

    #[test]
    fn a_permit_is_asked_for_only_by_who_has_a_slot() {
        for (state, event) in every_pair() {
            if let Ok((_, Action::AskForPermit)) = step(state, event) {
                assert!(
                    matches!(
                        (state, event),
                        (State::Draining, Event::Drained)
                            | (State::Starting, Event::HoldsPermit)
                            | (State::Rebooting, Event::StillUp | Event::PermitTooOld)
                    ),
                    "{state:?} {event:?}"
                );
            }
        }
    }

    #[test]
    fn after_the_order_nothing_is_released_unless_the_machine_is_provably_up_for_good() {
        for event in EVENTS {
            if let Ok((_, Action::Release)) = step(State::Rebooting, event) {
                assert!(matches!(event, Event::NotOrdered | Event::StillUpUnwanted), "{event:?}");
            }
        }
    }

    #[test]
    fn every_state_can_be_left() {
        for state in STATES {
            assert!(
                EVENTS.iter().any(|event| step(state, *event).is_ok_and(|(to, _)| to != state))
            );
        }
    }

    #[test]
    fn what_was_not_asked_changes_nothing() {
        let error = step(State::Idle, Event::Permitted).unwrap_err();
        assert_eq!(error.to_string(), "Permitted does not belong to Idle");
    }
}
