//! Dying at a chosen step, so that tests can show what the next life makes of it.

/// Kills this process, as a power cut would, if `REBOOTLOCK_FAILPOINT` names this `point`. Only in
/// debug builds.
pub fn reach(point: &str) {
    if cfg!(debug_assertions)
        && std::env::var_os("REBOOTLOCK_FAILPOINT").is_some_and(|wanted| wanted == point)
    {
        tracing::warn!(point, "dying at a failpoint");
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}
