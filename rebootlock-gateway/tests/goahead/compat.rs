//! goahead's own files: served as they are, and printed as ours.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::client::{INQUIRE, REQUEST, until};
use super::support::{Answer, BINARY, Fleet, Gateway, file, request};

const WEB: &str = "web:\n  enabled: yes\n  name_pattern: ^web-\n  allowed_parallel_restarts: 1\n";

/// goahead's files in a folder, and a client that trusts its certificate.
fn goahead() -> (Fleet, Arc<ClientConfig>) {
    let fleet = Fleet::new("");
    let made = rcgen::generate_simple_self_signed(vec!["gw.example".to_owned()]).unwrap();
    let cert = file(&fleet, "cert.pem", &made.cert.pem());
    let key = file(&fleet, "key.pem", &made.signing_key.serialize_pem());
    let (clusters, state) = (fleet.path("clusters"), fleet.path("state"));
    std::fs::create_dir_all(format!("{clusters}/more")).unwrap();
    std::fs::write(format!("{clusters}/more/web.yaml"), WEB).unwrap();
    std::fs::write(format!("{clusters}/empty.yml"), "").unwrap();
    std::fs::write(format!("{clusters}/README"), "{").unwrap();
    file(
        &fleet,
        "config.yml",
        &format!(
            "listen_address: 127.0.0.1\nlisten_port: 0\ninclude_dir: {clusters}\nlog_base_dir: /tmp\n\
             save_state_dir: {state}\nssl_private_key: {key}\nssl_certificate_file: {cert}\n\
             ssl_client_cert_ca_file: /nonexistent\n"
        ),
    );
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (fleet, Arc::new(client))
}

fn over_tls(gw: &Gateway, client: &Arc<ClientConfig>, text: &str) -> Answer {
    let name = ServerName::try_from("gw.example").unwrap();
    let connection = ClientConnection::new(client.clone(), name).unwrap();
    let mut stream = StreamOwned::new(connection, gw.connect());
    stream.write_all(text.as_bytes()).unwrap();
    Answer::read(&mut stream, false).unwrap()
}

fn compat(fleet: &Fleet, flags: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command
        .arg("goahead-compat")
        .args(flags)
        .current_dir(fleet.dir.path())
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn goaheads_own_files_are_served_and_a_restart_forgets_nothing() {
    let (fleet, client) = goahead();
    let start = |flags: &[&str]| {
        let mut flags = flags.to_vec();
        flags.extend(["--log-format", "json"]);
        Gateway::start(compat(&fleet, &flags))
    };
    // Without a flag it is ./config.yml.
    let gw = start(&[]);
    assert_eq!(
        over_tls(&gw, &client, &request("GET", "/", "", "")).json()["message"],
        "HealthHandler!"
    );
    let ask = |gw: &Gateway, fqdn: &str, id: &str| {
        let body = format!(r#"{{"fqdn":"{fqdn}","uptime":"5h","request_id":"{id}"}}"#);
        over_tls(gw, &client, &request("POST", REQUEST, "", &body)).json()
    };
    let id = ask(&gw, "web-1", "")["request_id"].as_str().unwrap().to_owned();
    drop(gw);
    let config = fleet.path("config.yml");
    let gw = start(&["-config", &config, "-debug"]);
    assert_eq!(ask(&gw, "web-1", &id)["go_ahead"], true);
    drop(gw);
    let gw = start(&[&format!("-config={config}")]);
    let again = ask(&gw, "web-1", &id);
    assert_eq!(again["message"], "You should already be restarting!");
    assert!(std::path::Path::new(&fleet.path("state/rebootlock.db")).exists());
    let id = ask(&gw, "web-2", "")["request_id"].as_str().unwrap().to_owned();
    until("the slots of the file", || {
        ask(&gw, "web-2", &id)["message"]
            .as_str()
            .unwrap()
            .contains("1 >= 1 Currently restarting hosts: web-1")
    });
}

#[test]
fn flags_are_goaheads_and_mistakes_are_said_with_their_place() {
    let (fleet, _) = goahead();
    let (code, stdout, _) = run(&mut compat(&fleet, &["-h"]));
    assert_eq!(code, Some(0));
    assert!(stdout.contains("--config"), "{stdout}");
    let (code, stdout, _) = run(&mut compat(&fleet, &["-version"]));
    assert!(code == Some(0) && stdout.starts_with("rebootlock-gateway "), "{stdout}");
    let (code, _, stderr) = run(&mut compat(&fleet, &["-config", "/nonexistent.yml"]));
    assert!(code == Some(2) && stderr.contains("/nonexistent.yml"), "{stderr}");
    let (code, ..) = run(&mut compat(&fleet, &["-nonsense"]));
    assert_eq!(code, Some(64));
    let bad = fleet.path("clusters/more/web.yaml");
    std::fs::write(&bad, WEB.replace("^web-", "'('")).unwrap();
    let (code, _, stderr) = run(&mut compat(&fleet, &[]));
    assert!(
        code == Some(2) && stderr.contains(&format!("{bad}: 3:17: cluster \"web\"")),
        "{stderr}"
    );
    std::fs::remove_dir_all(fleet.path("clusters")).unwrap();
    let (code, _, stderr) = run(&mut compat(&fleet, &[]));
    assert!(code == Some(2) && stderr.contains("clusters: cannot be read"), "{stderr}");
}

#[test]
fn what_is_printed_can_be_served() {
    let (fleet, client) = goahead();
    let import = |files: &[&str]| {
        let mut command = Command::new(BINARY);
        command
            .args(["import", "--from", "goahead"])
            .args(files)
            .current_dir(fleet.dir.path())
            .env_clear();
        run(&mut command)
    };
    let (code, ours, stderr) = import(&["config.yml"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(ours.contains("[[gateway.goahead.cluster]]\nname = \"web\"\n"), "{ours}");
    fleet.configure(&ours);
    let gw = fleet.start();
    assert_eq!(over_tls(&gw, &client, &request("GET", "/health", "", "")).status, 200);
    let (code, ours, _) = import(&["clusters/more/web.yaml", "clusters/empty.yml"]);
    assert!(code == Some(0) && ours.contains("slots = 1") && !ours.contains("[store]"), "{ours}");
    assert_eq!(import(&["/nonexistent"]).0, Some(1));
    assert_eq!(import(&[]).0, Some(64));
}

/// A state of goahead's in which these machines hold slots.
fn held_by(fleet: &Fleet, cluster: &str, machines: &[&str]) {
    let state = fleet.path("state");
    std::fs::create_dir_all(format!("{state}/{cluster}")).unwrap();
    let servers: serde_json::Map<_, _> =
        machines.iter().map(|name| ((*name).to_owned(), serde_json::json!({}))).collect();
    let text = serde_json::json!({
        "last_restart_request_timestamp": "2026-01-01T00:00:00Z",
        "CurrentOngoingRestarts": machines.len(),
        "CurrentRestartingServers": servers,
    });
    std::fs::write(format!("{state}/{cluster}.json"), text.to_string()).unwrap();
    for name in machines {
        let record = r#"{"timestamp":"2026-01-01T00:00:00Z","reported_uptime":"5h"}"#;
        std::fs::write(format!("{state}/{cluster}/{name}.json"), record).unwrap();
    }
}

#[test]
fn slots_held_in_goaheads_own_state_are_held_here_and_taken_once() {
    let (fleet, client) = goahead();
    held_by(&fleet, "web", &["web-9"]);
    held_by(&fleet, "gone", &["gone-1"]);
    let start = || Gateway::start(compat(&fleet, &["--log-format", "json"]));
    let gw = start();
    gw.logged("  web-9: is to hold a slot");
    gw.logged("these hold slots of it: gone-1");
    // What goahead took otherwise is said, though nobody has read what was made of it.
    gw.logged("reboot_completion_check was empty");
    let ask = |gw: &Gateway, path: &str, fqdn: &str, uptime: &str, id: &str| {
        let body = format!(r#"{{"fqdn":"{fqdn}","uptime":"{uptime}","request_id":"{id}"}}"#);
        over_tls(gw, &client, &request("POST", path, "", &body)).json()
    };
    let twice = |gw: &Gateway, fqdn: &str| {
        let id = ask(gw, REQUEST, fqdn, "5h", "")["request_id"].as_str().unwrap().to_owned();
        ask(gw, REQUEST, fqdn, "5h", &id)
    };
    let denied = twice(&gw, "web-1");
    let said = denied["message"].as_str().unwrap();
    assert!(said.ends_with("1 >= 1 Currently restarting hosts: web-9"), "{said}");
    // It comes back, as it would have there.
    ask(&gw, INQUIRE, "web-9", "1m", "");
    until("its slot", || twice(&gw, "web-1")["go_ahead"] == true);
    drop(gw);
    // The file says what it said, and that is over.
    let gw = start();
    gw.logged("group web: taken over at ");
    let denied = twice(&gw, "web-2");
    let said = denied["message"].as_str().unwrap();
    assert!(said.ends_with("Currently restarting hosts: web-1"), "{said}");
}

#[test]
fn a_state_that_cannot_be_read_is_not_taken_for_nobody() {
    let (fleet, _) = goahead();
    std::fs::create_dir_all(fleet.path("state")).unwrap();
    let state = fleet.path("state/web.json");
    std::fs::write(&state, "").unwrap();
    let (code, _, stderr) = run(&mut compat(&fleet, &[]));
    assert_eq!(code, Some(2), "{stderr}");
    assert!(
        stderr.contains(&state) && stderr.contains("is not the state of a cluster"),
        "{stderr}"
    );
}

#[test]
fn they_are_taken_over_by_those_who_convert_the_files_too() {
    let fleet = Fleet::new(&super::client::cluster(""));
    held_by(&fleet, "web", &["web-8", "web-9"]);
    let take_over = |more: &[&str]| {
        let store = fleet.endpoint();
        let (config, state) = (fleet.path("rebootlock.toml"), fleet.path("state"));
        let mut command = Command::new(BINARY);
        command
            .args(["take-over", "--from", "goahead", "--config", &config, "--endpoint", &store])
            .args(if more.contains(&"--source") { vec![] } else { vec!["--state-dir", &state] })
            .args(more)
            .env_clear();
        run(&mut command)
    };
    let (code, shown, said) = take_over(&[]);
    assert_eq!(code, Some(0), "{said}");
    let expected = "group web: 1 slots\n  web-8: is to hold a slot\n  web-9: is to hold a slot\n";
    assert_eq!(shown, expected);
    assert!(said.contains("nothing was written"), "{said}");
    assert_eq!(fleet.group("web"), "");
    assert_eq!(take_over(&["--yes"]).1, expected);
    assert_eq!(fleet.group("web"), r#"{"semaphore":-1,"max":1,"holders":["web-8","web-9"]}"#);
    let record = fleet.document("groups/web/holders/web-8").unwrap();
    assert!(
        record.contains(r#""via":"goahead""#) && record.contains(r#""uptime":"5h""#),
        "{record}"
    );
    assert!(take_over(&["--yes"]).1.starts_with("group web: taken over at 20"));
    // Somebody else's holders are named, and are not what failed.
    held_by(&fleet, "gone", &["gone-1"]);
    let (code, shown, _) = take_over(&["--yes"]);
    assert!(code == Some(8) && shown.contains("these hold slots of it: gone-1"), "{shown}");
    fleet.configure("");
    assert_eq!(take_over(&["--yes"]).0, Some(2));
    assert_eq!(take_over(&["--source", "http://127.0.0.1:1"]).0, Some(64));
}

#[test]
fn a_folder_that_is_not_there_and_a_name_that_is_none_are_not_taken_for_nobody() {
    let fleet = Fleet::new(&super::client::cluster(""));
    let take_over = |state: &str| {
        let mut command = Command::new(BINARY);
        command
            .args(["take-over", "--from", "goahead", "--yes", "--endpoint", &fleet.endpoint()])
            .args(["--config", &fleet.path("rebootlock.toml"), "--state-dir", state])
            .env_clear();
        run(&mut command)
    };
    let state = fleet.path("state");
    let (code, _, said) = take_over(&state);
    assert!(code == Some(2) && said.contains(&state), "{said}");
    std::fs::create_dir(&state).unwrap();
    let (code, _, said) = take_over(&state);
    assert!(code == Some(0) && said.contains("is it goahead's save_state_dir?"), "{said}");
    // A shell that is told of them would run the one, and `ls` would take the other for an option.
    std::fs::write(
        format!("{state}/web.json"),
        r#"{"CurrentRestartingServers":{"web-1":{},"-la":{},"$(touch${IFS}pwned)":{}}}"#,
    )
    .unwrap();
    let (code, shown, said) = take_over(&state);
    assert!(code == Some(2) && shown.is_empty(), "{shown}{said}");
    assert!(
        said.contains(r#"here, because they go into command lines: "$(touch${IFS}pwned)", "-la""#),
        "{said}"
    );
    std::fs::write(format!("{state}/web.json"), "{").unwrap();
    assert_eq!(take_over(&state).0, Some(2));
    assert_eq!(fleet.group("web"), "", "nothing was written");
}

#[test]
fn goaheads_own_files_with_such_a_name_are_not_served() {
    let (fleet, _) = goahead();
    held_by(&fleet, "web", &["-la"]);
    let (code, _, stderr) = run(&mut compat(&fleet, &[]));
    assert!(code == Some(2) && stderr.contains("slots are held by names"), "{stderr}");
}

#[test]
fn what_is_no_main_file_is_not_served() {
    let (fleet, _) = goahead();
    held_by(&fleet, "web", &["web-9"]);
    for text in ["", "# listen_port: 1\n", "---\n", "foo: {}\n", WEB] {
        file(&fleet, "config.yml", text);
        let (code, _, stderr) = run(&mut compat(&fleet, &[]));
        assert!(code == Some(2) && stderr.contains("config.yml: none of the settings"), "{stderr}");
    }
    // goahead serves TLS alone.
    file(&fleet, "config.yml", "listen_address: 127.0.0.1\nlisten_port: 0\n");
    let (code, _, stderr) = run(&mut compat(&fleet, &[]));
    assert!(code == Some(2) && stderr.contains("`ssl_certificate_file` is missing"), "{stderr}");
}

#[test]
fn an_include_dir_is_walked_as_goahead_walks_it() {
    let (fleet, _) = goahead();
    let more = fleet.path("clusters/more");
    let link = |to: &str, name: &str| {
        std::os::unix::fs::symlink(to, format!("{more}/{name}")).unwrap();
    };
    link("..", "loop");
    link("me@host.1:2", ".#web.yaml");
    let import = || {
        let mut command = Command::new(BINARY);
        command.args(["import", "--from", "goahead", "config.yml"]);
        run(command.current_dir(fleet.dir.path()).env_clear())
    };
    let (code, ours, stderr) = import();
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(ours.matches("[[gateway.goahead.cluster]]").count(), 1, "{ours}");
    let flat = ours.replace("\n#   ", " ");
    assert!(flat.contains("more/loop is a link to a folder"), "{ours}");
    assert!(flat.contains("more/.#web.yaml is an editor's lock"), "{ours}");
    // Another file that is not there may be a cluster's.
    link("gone.yml", "db.yml");
    let (code, _, stderr) = import();
    assert!(code == Some(2) && stderr.contains("more/db.yml: cannot be read"), "{stderr}");
    std::fs::remove_dir_all(&more).unwrap();
    std::fs::remove_file(fleet.path("clusters/empty.yml")).unwrap();
    let (code, _, stderr) = run(&mut compat(&fleet, &[]));
    assert!(code == Some(2) && stderr.contains("clusters: no file with clusters"), "{stderr}");
}

#[test]
fn commands_run_where_goahead_was_started_and_settings_of_ours_count_on_top() {
    let (fleet, client) = goahead();
    let (out, limit) = (fleet.path("out"), fleet.path("limits"));
    std::fs::create_dir(fleet.path("hooks")).unwrap();
    fleet.script("hooks/drain.sh", &format!("echo $1 >> {out}"));
    let slow = fleet.script("slow", &format!("echo x >> {limit}; sleep 60"));
    let clusters = fleet.path("clusters/more/web.yaml");
    let hooks = "  reboot_goahead_actions: ['/bin/sh hooks/drain.sh {:%fqdn%:}']\n";
    let check = format!("  reboot_completion_check: {slow}\n");
    std::fs::write(&clusters, format!("{WEB}{hooks}{check}")).unwrap();
    let settings = file(
        &fleet,
        "settings.toml",
        "[gateway.goahead]\ncompletion_check_timeout_secs = 1\nwait_for_actions_secs = 20\n",
    );
    let gw = Gateway::start(compat(&fleet, &["-settings", &settings, "--log-format", "json"]));
    gw.logged("each completion check has 300 s (completion_check_timeout_secs)");
    gw.logged("goahead ran commands in the folder that it was started in, and so does");
    let ask = |path: &str, uptime: &str, id: &str| {
        let body = format!(r#"{{"fqdn":"web-1","uptime":"{uptime}","request_id":"{id}"}}"#);
        over_tls(&gw, &client, &request("POST", path, "", &body)).json()
    };
    let id = ask(REQUEST, "5h", "")["request_id"].as_str().unwrap().to_owned();
    assert_eq!(ask(REQUEST, "5h", &id)["go_ahead"], true);
    assert_eq!(fleet.read("out"), "web-1\n", "the answer waits for the action");
    ask(INQUIRE, "10s", "");
    gw.logged("a completion check says nothing");
    assert!(fleet.read("limits").starts_with("x\n"));
    drop(gw);
    std::fs::write(&settings, "[gateway.goahead]\nworking_dir = \"hooks\"\n").unwrap();
    let (code, _, stderr) = run(&mut compat(&fleet, &["--settings", &settings]));
    assert!(code == Some(2) && stderr.contains("settings.toml:2:15: `working_dir`"), "{stderr}");
    let (code, _, stderr) = run(&mut compat(&fleet, &["-settings=/nonexistent"]));
    assert!(code == Some(2) && stderr.contains("cannot read /nonexistent"), "{stderr}");
}
