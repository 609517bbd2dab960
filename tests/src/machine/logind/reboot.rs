//! What becomes of a call of `Reboot`: refused, failed, or written down.

use std::time::SystemTime;

use zbus::message::{Header, Message};
use zbus::names::ErrorName;

use super::Shared;

/// `SD_LOGIND_ROOT_CHECK_INHIBITORS`: root asks to be stopped by inhibitors too.
const ROOT_CHECK_INHIBITORS: u64 = 1;
/// `SD_LOGIND_SKIP_INHIBITORS`, known since systemd 257.
const SKIP_INHIBITORS: u64 = 1 << 4;
/// The flags of systemd 252: check inhibitors, kexec.
const FLAGS_252: u64 = 0b11;
/// The flags of systemd 257: these, soft reboots and skip inhibitors.
const FLAGS_257: u64 = 0b1_1111;

/// How a block inhibitor on `shutdown` treats a `Reboot` call. The caller counts as root unless the
/// rule says otherwise, whoever runs the test.
///
/// As the systemd 252 of Debian 12 and the 257 of Debian 13 answered. In every version, delay
/// inhibitors refuse nothing, and `Reboot(b)` is `RebootWithFlags` without flags but with the boolean
/// as consent to a polkit dialogue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InhibitorRule {
    /// systemd 257 and later. A `block` inhibitor of any user refuses everybody, root included, with
    /// `org.freedesktop.DBus.Error.AccessDenied`, unless `SD_LOGIND_SKIP_INHIBITORS` (0x10) is set and
    /// polkit consents, as it does to root. A `block-weak` inhibitor behaves as `block` did before 257.
    #[default]
    Systemd257,
    /// The same without polkit, as in small images: nobody consents, and root is refused with
    /// `SD_LOGIND_SKIP_INHIBITORS` too.
    Systemd257WithoutPolkit,
    /// The same with a polkit that is installed and does not start: logind asks and waits.
    Systemd257WithBrokenPolkit,
    /// systemd up to 256, so Debian 12's 252. Root is never asked: `Reboot(false)` by root **ignores
    /// every block inhibitor** and reboots, since root passes the polkit check for
    /// `org.freedesktop.login1.reboot-ignore-inhibit` by its capability. With
    /// `SD_LOGIND_ROOT_CHECK_INHIBITORS` (0x01) root is refused with
    /// `org.freedesktop.DBus.Error.AccessDenied`, but only for inhibitors that *another* user holds:
    /// the caller's own user's do not count. So an inhibitor of a root service never stops root.
    Systemd252,
    /// Any version with a caller whom polkit refuses: `Reboot` fails with `AccessDenied` while another
    /// user holds a block inhibitor.
    Unprivileged,
}

/// A way for `Reboot` to go wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RebootFailure {
    /// It answers with this D-Bus error (name, text) and does nothing.
    Error(String, String),
    /// It never answers and does nothing.
    NeverAnswers,
    /// It answers with an error although the reboot goes on: the reply was lost, or systemd was already
    /// taking the bus down.
    ErrorThoughRebooting,
    /// It never answers although the reboot goes on.
    NeverAnswersThoughRebooting,
}

/// A reboot that took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebootCall {
    /// When.
    pub at: SystemTime,
    /// The caller's unique name on the bus.
    pub sender: String,
    /// `Reboot` or `RebootWithFlags`.
    pub method: String,
    /// The flags, 0 with `Reboot`.
    pub flags: u64,
    /// The argument of `Reboot`, false with `RebootWithFlags`.
    pub interactive: bool,
    /// What the users were told, if `SetWallMessage` had turned that on.
    pub wall_message: Option<String>,
}

/// What the D-Bus method has to do next.
pub(super) enum Outcome {
    /// Reboot: announce it, answer well.
    Reboots,
    /// Announce the reboot, then fail.
    RebootsThenFails(Refusal),
    /// Announce the reboot, then stay silent.
    RebootsThenHangs,
    /// Stay silent.
    Hangs,
    /// Fail.
    Refused(Refusal),
}

impl Shared {
    /// Decides over a call, and writes it down if it takes effect.
    pub(super) fn decide(&self, mut call: RebootCall) -> Outcome {
        let mut state = self.state();
        let failure = state.failure.clone();
        if !state.failure_stays {
            state.failure = None;
        }
        let outcome = match failure {
            Some(RebootFailure::Error(name, text)) => Outcome::Refused(Refusal { name, text }),
            Some(RebootFailure::NeverAnswers) => Outcome::Hangs,
            _ if waits_for_polkit(&state, call.flags) => Outcome::Hangs,
            failure => match refusal(&state, call.flags) {
                Some(refusal) => Outcome::Refused(refusal),
                None => match failure {
                    Some(RebootFailure::ErrorThoughRebooting) => {
                        Outcome::RebootsThenFails(Refusal::new(
                            "org.freedesktop.DBus.Error.NoReply",
                            "Message recipient disconnected from message bus without replying",
                        ))
                    }
                    Some(RebootFailure::NeverAnswersThoughRebooting) => Outcome::RebootsThenHangs,
                    _ => Outcome::Reboots,
                },
            },
        };
        let takes_effect = !matches!(outcome, Outcome::Refused(_) | Outcome::Hangs);
        if takes_effect {
            state.preparing = true;
            call.wall_message = state.wall.1.then(|| state.wall.0.clone());
        }
        drop(state);
        self.attempts.send_modify(|made| *made += 1);
        if takes_effect {
            self.reboots.send_modify(|calls| calls.push(call));
        }
        outcome
    }
}

/// Whether an inhibitor of this mode keeps the machine up; root's own only if they count.
fn is_blocked(state: &super::State, mode: &str, also_of_root: bool) -> bool {
    let mut inhibitors = state.inhibitors.iter().filter(|each| each.concerns("shutdown"));
    inhibitors.any(|each| each.mode == mode && (also_of_root || each.uid != 0))
}

fn waits_for_polkit(state: &super::State, flags: u64) -> bool {
    state.rule == InhibitorRule::Systemd257WithBrokenPolkit
        && flags & SKIP_INHIBITORS != 0
        && is_blocked(state, "block", true)
}

/// Why logind would not reboot now.
fn refusal(state: &super::State, flags: u64) -> Option<Refusal> {
    use InhibitorRule::{
        Systemd252, Systemd257, Systemd257WithBrokenPolkit, Systemd257WithoutPolkit, Unprivileged,
    };
    let known = if state.rule == Systemd252 { FLAGS_252 } else { FLAGS_257 };
    if flags & !known != 0 {
        return Some(Refusal::new(
            "org.freedesktop.DBus.Error.InvalidArgs",
            "Invalid flags parameter",
        ));
    }
    let checks_root = flags & ROOT_CHECK_INHIBITORS != 0;
    let skips = flags & SKIP_INHIBITORS != 0;
    let (block, any_block) = (is_blocked(state, "block", false), is_blocked(state, "block", true));
    let denied = |text| Refusal::new("org.freedesktop.DBus.Error.AccessDenied", text);
    let refusal = match state.rule {
        Systemd257 | Systemd257WithoutPolkit | Systemd257WithBrokenPolkit => {
            let weak = checks_root && is_blocked(state, "block-weak", false);
            if skips {
                let asked = state.rule == Systemd257WithoutPolkit && any_block;
                asked.then(|| denied("Permission denied"))
            } else {
                (any_block || weak).then(|| denied("Access denied due to active block inhibitor"))
            }
        }
        Systemd252 => (checks_root && block)
            .then(|| denied("Access denied to root due to active block inhibitor")),
        Unprivileged => (any_block || is_blocked(state, "block-weak", true))
            .then(|| denied("Permission denied")),
    };
    refusal.or_else(|| {
        state.preparing.then(|| {
            Refusal::new(
                "org.freedesktop.login1.OperationInProgress",
                "There's already a shutdown or sleep operation in progress",
            )
        })
    })
}

/// A D-Bus error with a name of logind's choice.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    name: String,
    text: String,
}

impl Refusal {
    pub(super) fn new(name: &str, text: &str) -> Self {
        Self { name: name.to_owned(), text: text.to_owned() }
    }
}

impl zbus::DBusError for Refusal {
    fn create_reply(&self, call: &Header<'_>) -> zbus::Result<Message> {
        Message::error(call, self.name.as_str()).build(&self.text)
    }

    fn name(&self) -> ErrorName<'_> {
        let fallback = ErrorName::from_static_str_unchecked("org.freedesktop.DBus.Error.Failed");
        ErrorName::try_from(self.name.as_str()).unwrap_or(fallback)
    }

    fn description(&self) -> Option<&str> {
        Some(&self.text)
    }
}
