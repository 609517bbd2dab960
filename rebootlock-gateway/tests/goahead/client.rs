//! What a goahead client does.

use std::time::{Duration, Instant};

use super::support::{Answer, Fleet, Gateway};

pub(crate) const REQUEST: &str = "/v1/request/restart/os";
pub(crate) const INQUIRE: &str = "/v1/inquire/restart/";

/// A cluster of machines whose names begin with `web-`.
pub(crate) fn cluster(more: &str) -> String {
    format!("[[gateway.goahead.cluster]]\nname = \"web\"\npattern = \"^web-\"\n{more}")
}

pub(crate) fn gateway(config: &str) -> (Fleet, Gateway) {
    let fleet = Fleet::new(config);
    let gateway = fleet.start();
    (fleet, gateway)
}

pub(crate) fn post(gw: &Gateway, path: &str, fqdn: &str, uptime: &str, id: Option<&str>) -> Answer {
    let mut body = serde_json::json!({"fqdn": fqdn, "uptime": uptime});
    if let Some(id) = id {
        body["request_id"] = id.into();
    }
    body["restart_reason"] = "kernel".into();
    gw.post(path, "content-type: application/json\r\n", &body.to_string())
}

pub(crate) fn request(gw: &Gateway, fqdn: &str, uptime: &str, id: Option<&str>) -> Answer {
    post(gw, REQUEST, fqdn, uptime, id)
}

pub(crate) fn inquire(gw: &Gateway, fqdn: &str, uptime: &str) -> Answer {
    post(gw, INQUIRE, fqdn, uptime, None)
}

/// Asks for the first time, and gives the id to ask again with.
pub(crate) fn first(gw: &Gateway, fqdn: &str, uptime: &str) -> String {
    request(gw, fqdn, uptime, None).json()["request_id"].as_str().unwrap().to_owned()
}

/// Asks twice, without waiting in between.
pub(crate) fn second(gw: &Gateway, fqdn: &str, uptime: &str) -> Answer {
    let id = first(gw, fqdn, uptime);
    request(gw, fqdn, uptime, Some(&id))
}

#[track_caller]
pub(crate) fn goes(gw: &Gateway, fqdn: &str, uptime: &str) {
    let json = second(gw, fqdn, uptime).json();
    assert_eq!(json["go_ahead"], true, "{json}");
}

/// What it is told instead of a go-ahead.
#[track_caller]
pub(crate) fn denied(gw: &Gateway, fqdn: &str, uptime: &str) -> String {
    let json = second(gw, fqdn, uptime).json();
    assert_eq!(json["go_ahead"], false, "{json}");
    json["message"].as_str().unwrap().to_owned()
}

/// Waits for what must come.
#[track_caller]
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until the gateway has said that it looks after the holders. Nothing is written of itself then.
#[track_caller]
pub(crate) fn settled(fleet: &Fleet) {
    until("the caretaker", || fleet.document("goahead/caretaker").is_some());
}

/// Waits until nobody holds a slot of the cluster.
#[track_caller]
pub(crate) fn until_free(fleet: &Fleet) {
    until("a free slot", || fleet.group("web").contains("\"holders\":[]"));
}

impl Fleet {
    /// The semaphore of a group.
    pub(crate) fn group(&self, name: &str) -> String {
        self.document(&format!("groups/{name}/semaphore")).unwrap_or_default()
    }

    /// What a script has written into a file of this folder.
    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    /// The path of a file of this folder.
    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// A script that is run with its arguments.
    pub(crate) fn script(&self, name: &str, text: &str) -> String {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.dir.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }
}
