//! The stand-ins are what they claim to be, seen by clients that know nothing of them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use anyhow::Result;
use futures::StreamExt;
use rebootlock_tests::machine::logind::{self, InhibitorRule, RebootFailure};
use rebootlock_tests::machine::update_engine::{self, Answers, NEED_REBOOT, Status};
use rebootlock_tests::machine::{Bus, Machine, NotifySocket, Pty, UpdateEngine};
use rebootlock_tests::process::{Process, Signal};
use rebootlock_tests::{binaries, eventually, within};
use tokio::process::Command;
use zbus::{Connection, OwnedFd, OwnedObjectPath, Proxy};

const SOON: Duration = Duration::from_secs(10);

async fn proxy_of_logind(connection: &Connection) -> Proxy<'static> {
    Proxy::new(connection, logind::NAME, logind::PATH, logind::INTERFACE).await.unwrap()
}

async fn proxy_of_update_engine(connection: &Connection) -> Proxy<'static> {
    let (name, path) = (update_engine::NAME, update_engine::PATH);
    Proxy::new(connection, name, path, update_engine::INTERFACE).await.unwrap()
}

/// The D-Bus error name of a failed call.
fn error_name<T: std::fmt::Debug>(result: zbus::Result<T>) -> String {
    match result.unwrap_err() {
        zbus::Error::MethodError(name, _, _) => name.to_string(),
        zbus::Error::FDO(error) => zbus::DBusError::name(&*error).to_string(),
        other => panic!("not a D-Bus error: {other:?}"),
    }
}

/// Runs a D-Bus tool against the machine; nothing if this computer does not have it.
async fn tool(machine: &Machine, program: &str, args: &[&str]) -> Option<String> {
    let mut command = machine.command(program.as_ref());
    let output = command.args(args).kill_on_drop(true).output();
    let output = match within(program, SOON, output).await.unwrap() {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return None,
        output => output.unwrap(),
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {stderr}");
    Some(String::from_utf8(output.stdout).unwrap())
}

/// Every member of a `busctl introspect` table as `kind name signature result`.
fn members(table: &str) -> Vec<String> {
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        let (name, kind) = (words.next()?.trim_start_matches('.'), words.next()?);
        let (signature, result) = (words.next()?, words.next()?);
        let result = if kind == "method" { result } else { "-" };
        Some(format!("{kind} {name} {signature} {result}"))
    };
    table.lines().filter_map(row).collect()
}

async fn assert_members(machine: &Machine, what: [&str; 3], expected: &[&str]) {
    let [name, path, interface] = what;
    let address = format!("--address={}", machine.bus.address());
    let args = [&address, "introspect", name, path, interface];
    let Some(table) = tool(machine, "busctl", &args).await else { return };
    let members = members(&table);
    for member in expected {
        assert!(members.iter().any(|each| each == member), "{member} is not in\n{table}");
    }
}

#[tokio::test]
async fn busctl_sees_the_interfaces_of_the_real_services() {
    let machine = Machine::new("a").await.unwrap();
    let id = machine.logind.add_session("core", "pts/0").await.unwrap();
    let session = machine.logind.sessions().remove(0);
    assert_eq!(
        (id.as_str(), session.path().unwrap().as_str()),
        ("1", "/org/freedesktop/login1/session/_31")
    );
    assert_members(
        &machine,
        [update_engine::NAME, update_engine::PATH, update_engine::INTERFACE],
        &["method GetStatus - xdssx", "signal StatusUpdate xdssx -"],
    )
    .await;
    assert_members(
        &machine,
        [logind::NAME, logind::PATH, logind::INTERFACE],
        &[
            "method Reboot b -",
            "method RebootWithFlags t -",
            "method CanReboot - s",
            "method ListInhibitors - a(ssssuu)",
            "method Inhibit ssss h",
            "method ListSessions - a(susso)",
            "method SetWallMessage sb -",
            "property PreparingForShutdown b -",
            "property BlockInhibited s -",
            "property DelayInhibited s -",
            "signal PrepareForShutdown b -",
            "signal SessionNew so -",
            "signal SessionRemoved so -",
        ],
    )
    .await;
    assert_members(
        &machine,
        [logind::NAME, session.path().unwrap().as_str(), "org.freedesktop.login1.Session"],
        &[
            "property Id s -",
            "property User (uo) -",
            "property Name s -",
            "property TTY s -",
            "property Remote b -",
            "property Class s -",
            "property Type s -",
            "property State s -",
            "property Active b -",
        ],
    )
    .await;
}

#[tokio::test]
async fn systemds_and_glibs_own_tools_talk_to_the_stand_ins() {
    let machine = Machine::new("a").await.unwrap();
    machine.update_engine.need_reboot().await.unwrap();
    machine.logind.add_inhibitor("shutdown", "backup", "still writing", "block").await.unwrap();
    let path = ["--dest", update_engine::NAME, "--object-path", update_engine::PATH];
    let method = ["--method", "com.coreos.update1.Manager.GetStatus"];
    let gdbus = [&["call", "--address", machine.bus.address()], &path[..], &method].concat();
    if let Some(said) = tool(&machine, "gdbus", &gdbus).await {
        assert!(said.contains(NEED_REBOOT), "{said}");
    }
    if let Some(said) = tool(&machine, "systemd-inhibit", &["--list"]).await {
        assert!(said.contains("backup") && said.contains("still writing"), "{said}");
    }
}

#[tokio::test]
async fn update_engine_tells_its_status_when_asked_and_when_it_changes() {
    let machine = Machine::new("a").await.unwrap();
    let connection = machine.bus.connect().await.unwrap();
    let proxy = proxy_of_update_engine(&connection).await;
    let mut signals = proxy.receive_signal("StatusUpdate").await.unwrap();
    let reply = proxy.call_method("GetStatus", &()).await.unwrap();
    assert_eq!(reply.body().signature().to_string_no_parens(), "xdssx");
    assert_eq!(reply.body().deserialize::<Status>().unwrap().2, update_engine::IDLE);

    machine.update_engine.need_reboot().await.unwrap();
    let signal = within("the signal", SOON, signals.next()).await.unwrap().unwrap();
    let told: Status = signal.body().deserialize().unwrap();
    let asked: Status = proxy.call("GetStatus", &()).await.unwrap();
    assert_eq!((told.2.as_str(), &told), (NEED_REBOOT, &asked));
}

#[tokio::test]
async fn update_engine_comes_late_goes_and_comes_back_with_its_status() {
    let bus = Bus::start().await.unwrap();
    let engine = UpdateEngine::new(bus.address());
    let connection = bus.connect().await.unwrap();
    let proxy = proxy_of_update_engine(&connection).await;
    let ask = async || proxy.call::<_, _, Status>("GetStatus", &()).await;
    assert!(error_name(ask().await).ends_with("ServiceUnknown"));
    engine.need_reboot().await.unwrap();
    engine.start().await.unwrap();
    assert_eq!(ask().await.unwrap().2, NEED_REBOOT);
    engine.stop().await;
    assert!(error_name(ask().await).ends_with("ServiceUnknown"));
    engine.start().await.unwrap();
    assert_eq!(ask().await.unwrap().2, NEED_REBOOT);
}

#[tokio::test]
async fn update_engine_fails_lies_or_hangs_on_request() {
    let machine = Machine::new("a").await.unwrap();
    let connection = machine.bus.connect().await.unwrap();
    let proxy = proxy_of_update_engine(&connection).await;
    machine.update_engine.set_answers(Answers::Failing).await.unwrap();
    let failed = proxy.call::<_, _, Status>("GetStatus", &()).await;
    assert_eq!(error_name(failed), "org.freedesktop.DBus.Error.Failed");
    machine.update_engine.set_answers(Answers::Mistyped).await.unwrap();
    let lie = proxy.call_method("GetStatus", &()).await.unwrap();
    assert_eq!(lie.body().signature().to_string_no_parens(), "su");
    machine.update_engine.set_answers(Answers::Never).await.unwrap();
    let silent = proxy.call::<_, _, Status>("GetStatus", &());
    within("an answer", Duration::from_millis(200), silent).await.unwrap_err();
    machine.update_engine.set_answers(Answers::Truly).await.unwrap();
    proxy.call::<_, _, Status>("GetStatus", &()).await.unwrap();
}

#[tokio::test]
async fn a_reboot_is_announced_and_written_down_once() {
    let machine = Machine::new("a").await.unwrap();
    let connection = machine.bus.connect().await.unwrap();
    let logind = proxy_of_logind(&connection).await;
    let mut signals = logind.receive_signal("PrepareForShutdown").await.unwrap();
    assert_eq!(logind.call::<_, _, String>("CanReboot", &()).await.unwrap(), "yes");
    logind.call::<_, _, ()>("SetWallMessage", &("an update", true)).await.unwrap();
    logind.call::<_, _, ()>("Reboot", &(false)).await.unwrap();

    let signal = within("the signal", SOON, signals.next()).await.unwrap().unwrap();
    assert!(signal.body().deserialize::<bool>().unwrap());
    assert!(machine.logind.preparing_for_shutdown());
    let preparing = property::<bool>(&connection, "PreparingForShutdown").await;
    assert!(preparing);
    let call = machine.logind.wait_reboot(SOON).await.unwrap();
    assert_eq!(call.wall_message.as_deref(), Some("an update"));
    assert_eq!(call.sender, connection.unique_name().unwrap().as_str());
    assert_eq!((call.method.as_str(), call.interactive), ("Reboot", false));

    let again = logind.call::<_, _, ()>("RebootWithFlags", &(0_u64)).await;
    assert_eq!(error_name(again), "org.freedesktop.login1.OperationInProgress");
    assert_eq!((machine.logind.reboots(), machine.logind.attempts()), (1, 2));
    machine.logind.wait_reboot(Duration::from_millis(100)).await.unwrap_err();
}

async fn property<T>(connection: &Connection, name: &str) -> T
where
    T: TryFrom<zbus::OwnedVariant>,
    T::Error: std::fmt::Debug,
{
    let path = logind::PATH;
    let interface = "org.freedesktop.DBus.Properties";
    let properties = Proxy::new(connection, logind::NAME, path, interface).await.unwrap();
    let value = properties.call("Get", &(logind::INTERFACE, name)).await;
    let value: zbus::OwnedVariant = value.unwrap();
    T::try_from(value).unwrap()
}

#[tokio::test]
async fn block_inhibitors_are_treated_as_each_systemd_treats_them() {
    const IGNORED: &str = "";
    const DENIED: &str = "org.freedesktop.DBus.Error.AccessDenied";
    use InhibitorRule::*;
    let machine = Machine::new("a").await.unwrap();
    let connection = machine.bus.connect().await.unwrap();
    let proxy = proxy_of_logind(&connection).await;
    for (rule, mode, uid, flags, expected) in [
        (Systemd252, "block", 0, 0, IGNORED),
        (Systemd252, "block", 1000, 0, IGNORED),
        (Systemd252, "block", 0, 1, IGNORED),
        (Systemd252, "block", 1000, 1, DENIED),
        (Systemd257, "block", 0, 0, DENIED),
        (Systemd257, "block", 1000, 1, DENIED),
        (Systemd257, "block", 0, 16, IGNORED),
        (Systemd257WithoutPolkit, "block", 1000, 16, DENIED),
        (Systemd257WithoutPolkit, "block", 0, 17, DENIED),
        (Systemd257WithoutPolkit, "delay", 0, 16, IGNORED),
        (Systemd257, "block-weak", 1000, 0, IGNORED),
        (Systemd257, "block-weak", 1000, 1, DENIED),
        (Systemd257, "block-weak", 0, 1, IGNORED),
        (Systemd257, "delay", 1000, 1, IGNORED),
        (Unprivileged, "block", 0, 0, DENIED),
    ] {
        let case = format!("{rule:?}, {mode} by {uid}, flags {flags}");
        machine.logind.set_inhibitor_rule(rule);
        let by = machine.logind.add_inhibitor_of("sleep:shutdown", "x", "y", mode, uid);
        by.await.unwrap();
        let reply = proxy.call::<_, _, ()>("RebootWithFlags", &(flags as u64)).await;
        match expected {
            IGNORED => reply.expect(&case),
            name => assert_eq!(error_name(reply), name, "{case}"),
        }
        machine.new_boot().await.unwrap();
    }
}

#[tokio::test]
async fn a_clients_inhibitor_lasts_until_its_file_descriptor_is_closed() {
    let machine = Machine::new("a").await.unwrap();
    let connection = machine.bus.connect().await.unwrap();
    let logind = proxy_of_logind(&connection).await;
    let request = ("shutdown:sleep", "dpkg", "unpacking", "block");
    let lifeline: OwnedFd = logind.call("Inhibit", &request).await.unwrap();
    type Row = (String, String, String, String, u32, u32);
    let rows: Vec<Row> = logind.call("ListInhibitors", &()).await.unwrap();
    let [(what, who, why, mode, _, pid)] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((what.as_str(), who.as_str()), ("shutdown:sleep", "dpkg"));
    assert_eq!((why.as_str(), mode.as_str()), ("unpacking", "block"));
    assert_eq!(*pid, std::process::id());
    assert_eq!(property::<String>(&connection, "BlockInhibited").await, "shutdown:sleep");
    assert_eq!(property::<String>(&connection, "DelayInhibited").await, "");

    drop(lifeline);
    eventually("the inhibitor is gone", SOON, async || {
        let left = machine.logind.inhibitors();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await
    .unwrap();
    let refused = logind.call::<_, _, OwnedFd>("Inhibit", &("lunch", "a", "b", "block")).await;
    assert_eq!(error_name(refused), "org.freedesktop.DBus.Error.InvalidArgs");
}

#[tokio::test]
async fn a_reboot_fails_in_the_ways_asked_for() {
    let machine = Machine::new("a").await.unwrap();
    let connection = machine.bus.connect().await.unwrap();
    let proxy = proxy_of_logind(&connection).await;
    let reboot = async || proxy.call::<_, _, ()>("Reboot", &(false)).await;
    let name = "org.freedesktop.systemd1.TransactionIsDestructive";
    machine.logind.fail_next_reboot(RebootFailure::Error(name.into(), "busy".into()));
    assert_eq!(error_name(reboot().await), name);
    machine.logind.fail_next_reboot(RebootFailure::NeverAnswers);
    within("an answer", Duration::from_millis(200), reboot()).await.unwrap_err();
    assert_eq!((machine.logind.reboots(), machine.logind.attempts()), (0, 2));
    machine.logind.fail_next_reboot(RebootFailure::ErrorThoughRebooting);
    assert!(error_name(reboot().await).ends_with("NoReply"));
    machine.logind.wait_reboot(SOON).await.unwrap();
    machine.new_boot().await.unwrap();
    reboot().await.unwrap();
    machine.logind.wait_reboot(SOON).await.unwrap();
    machine.logind.wait_attempts(4, SOON).await.unwrap();
}

#[tokio::test]
async fn sessions_come_with_an_object_and_a_signal_and_go_with_both() {
    let machine = Machine::new("a").await.unwrap();
    let connection = machine.bus.connect().await.unwrap();
    let proxy = proxy_of_logind(&connection).await;
    let mut come = proxy.receive_signal("SessionNew").await.unwrap();
    let mut gone = proxy.receive_signal("SessionRemoved").await.unwrap();
    let id = machine.logind.add_session("core", "pts/7").await.unwrap();
    let signal = within("SessionNew", SOON, come.next()).await.unwrap().unwrap();
    let (told, path): (String, OwnedObjectPath) = signal.body().deserialize().unwrap();
    assert_eq!(told, id);

    type Row = (String, u32, String, String, OwnedObjectPath);
    let rows: Vec<Row> = proxy.call("ListSessions", &()).await.unwrap();
    assert_eq!(rows, [(id.clone(), 1000, "core".into(), String::new(), path.clone())]);
    let interface = "org.freedesktop.login1.Session";
    let session = Proxy::new(&connection, logind::NAME, path.clone(), interface).await.unwrap();
    assert_eq!(session.get_property::<String>("TTY").await.unwrap(), "pts/7");
    assert_eq!(session.get_property::<String>("Class").await.unwrap(), "user");

    machine.logind.remove_session(&id).await.unwrap();
    let signal = within("SessionRemoved", SOON, gone.next()).await.unwrap().unwrap();
    assert_eq!(signal.body().deserialize::<(String, OwnedObjectPath)>().unwrap(), (id, path));
    let rows: Vec<Row> = proxy.call("ListSessions", &()).await.unwrap();
    assert!(rows.is_empty());
}

#[tokio::test]
async fn the_bus_comes_back_on_the_same_address_with_the_stand_ins_on_it() {
    let mut machine = Machine::new("a").await.unwrap();
    let address = machine.bus.address().to_owned();
    machine.update_engine.need_reboot().await.unwrap();
    let old = machine.bus.connect().await.unwrap();
    machine.bus.stop().await.unwrap();
    within("the old connection breaks", SOON, old.closed()).await.unwrap();
    assert!(machine.bus.connect().await.is_err());
    machine.restart_bus().await.unwrap();
    assert_eq!(machine.bus.address(), address);
    let connection = machine.bus.connect().await.unwrap();
    let engine = proxy_of_update_engine(&connection).await;
    assert_eq!(engine.call::<_, _, Status>("GetStatus", &()).await.unwrap().2, NEED_REBOOT);
    let logind = proxy_of_logind(&connection).await;
    assert_eq!(logind.call::<_, _, String>("CanReboot", &()).await.unwrap(), "yes");
}

#[tokio::test]
async fn a_new_boot_has_a_new_id_and_an_empty_run() {
    let machine = Machine::new("4711").await.unwrap();
    let old = machine.boot_id().unwrap();
    std::fs::write(machine.coordinator_file(), "STATE=rebooting\n").unwrap();
    machine.logind.add_session("core", "pts/0").await.unwrap();
    let connection = machine.bus.connect().await.unwrap();
    proxy_of_logind(&connection).await.call::<_, _, ()>("Reboot", &(true)).await.unwrap();
    let new = machine.new_boot().await.unwrap();
    assert_ne!(old, new);
    assert_eq!(machine.boot_id().unwrap(), new);
    assert!(!machine.coordinator_file().exists());
    assert!(machine.logind.sessions().is_empty());
    assert!(!machine.logind.preparing_for_shutdown());
    assert_eq!(machine.update_engine.status().2, update_engine::IDLE);
    assert_eq!(std::fs::read_to_string(machine.machine_id_file()).unwrap(), "4711\n");
}

#[tokio::test]
async fn a_terminal_shows_what_is_written_to_its_device() {
    let mut pty = Pty::open().unwrap();
    let device = format!("/dev/{}", pty.name());
    assert!(pty.name().starts_with("pts/"));
    std::fs::write(&device, "the machine\ngoes down\n").unwrap();
    let seen = pty.read_until("down", SOON).await.unwrap();
    assert!(seen.starts_with("the machine\r\n"), "{seen:?}");
    let missed = pty.read_until("never", Duration::from_millis(50)).await.unwrap_err();
    assert!(missed.to_string().contains("goes down"), "{missed}");
}

#[tokio::test]
async fn notifications_are_collected_whole() {
    let dir = tempfile::tempdir().unwrap();
    let socket = NotifySocket::bind(&dir.path().join("notify")).unwrap();
    let sender = std::os::unix::net::UnixDatagram::unbound().unwrap();
    sender.send_to(b"READY=1\nSTATUS=idle", socket.path()).unwrap();
    sender.send_to(b"STATUS=waiting", socket.path()).unwrap();
    socket.wait_for(|message| message.contains("waiting"), SOON).await.unwrap();
    assert_eq!(socket.messages(), ["READY=1\nSTATUS=idle", "STATUS=waiting"]);
    assert_eq!(socket.status().as_deref(), Some("waiting"));
}

#[tokio::test]
async fn a_process_is_heard_signalled_and_killed() -> Result<()> {
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg("trap 'echo bye >&2; exit 3' TERM; echo ready >&2; while :; do sleep 0.05; done");
    let mut shell = Process::spawn("sh", command)?;
    shell.wait_line("ready", SOON).await?;
    shell.signal(Signal::TERM)?;
    assert_eq!(shell.wait_exit(SOON).await?.code(), Some(3));
    assert_eq!(shell.stderr().lines(), ["ready", "bye"]);
    shell.signal(Signal::TERM).unwrap_err();

    let mut command = Command::new("sleep");
    command.arg("1000");
    let mut sleeper = Process::spawn("sleep", command)?;
    assert!(sleeper.is_running());
    sleeper.kill().await?;
    assert!(!sleeper.is_running());
    Ok(())
}

#[tokio::test]
async fn the_fake_machine_can_be_driven_by_hand() -> Result<()> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fake-machine"));
    command.arg("--id").arg("69d27b356a94476da859461d3a3bc6fd");
    assert_eq!(
        binaries::path("fake-machine")?,
        std::path::Path::new(env!("CARGO_BIN_EXE_fake-machine"))
    );
    let mut program = Process::spawn("fake-machine", command)?;
    let said = program.stdout().clone();
    let line = said.wait_for(SOON, |line| line.starts_with("DBUS_SYSTEM_BUS_ADDRESS=")).await?;
    let address = line.trim_start_matches("DBUS_SYSTEM_BUS_ADDRESS=").to_owned();
    said.wait_for(SOON, |line| line.starts_with("state-dir=")).await?;
    program.send_line("need-reboot").await?;
    program.send_line("session core pts/9").await?;
    program.send_line("inhibit backup still writing").await?;
    program.send_line("status").await?;
    said.wait_for(SOON, |line| line == "inhibitor: still writing (block) by backup").await?;
    program.send_line("uninhibit").await?;
    program.send_line("nonsense").await?;
    program.wait_line("no command \"nonsense\"", SOON).await?;
    let connection = zbus::connection::Builder::address(address.as_str()).build().await?;
    proxy_of_logind(&connection).await.call::<_, _, ()>("Reboot", &(false)).await?;
    said.wait_for(SOON, |line| line.starts_with("reboot: Reboot by :1.")).await?;
    program.send_line("new-boot").await?;
    program.send_line("quit").await?;
    assert!(program.wait_exit(SOON).await?.success());
    Ok(())
}
