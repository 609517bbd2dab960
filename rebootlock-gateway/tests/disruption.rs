//! Clients of disruption-manager, byte by byte, against the real binary, here on SQLite.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "disruption/addresses.rs"]
mod addresses;
#[allow(dead_code, unreachable_pub)]
#[path = "disruption/client.rs"]
mod client;
#[path = "disruption/operators.rs"]
mod operators;
#[path = "disruption/readiness.rs"]
mod readiness;
#[allow(dead_code, unreachable_pub)]
mod support;
#[allow(dead_code, unreachable_pub)]
#[path = "support/visitor.rs"]
mod visitor;
#[path = "disruption/words.rs"]
mod words;

use self::client::{LIMIT, Machine, PATH, READY_TIMEOUT, holders, poll, semaphore};
use self::support::{Fleet, Gateway, PROTOCOL, params};
use rustix::process::Signal;
use serde_json::{Value, json};

fn gateway(config: &str) -> (Fleet, Gateway) {
    let fleet = Fleet::new(config);
    let gateway = fleet.start();
    (fleet, gateway)
}

#[test]
fn who_asks_is_permitted_and_others_wait_in_the_order_they_came() {
    let (fleet, gw) = gateway("");
    let [a, b, c, d] = [2, 3, 4, 5].map(Machine::new);
    assert_eq!(a.check(&gw), "denied", "the group is free, but nobody has asked");
    assert_eq!(a.request(&gw), "permitted");
    assert_eq!(a.check(&gw), "permitted");
    assert_eq!(b.request(&gw), "requested");
    assert_eq!(c.request(&gw), "requested");
    assert_eq!((b.check(&gw), c.check(&gw)), ("requested".into(), "requested".into()));
    assert_eq!(d.check(&gw), "denied");
    let record: Value =
        serde_json::from_str(&fleet.document("groups/web/holders/127.0.0.2").unwrap()).unwrap();
    assert_eq!(record["via"], "disruption-manager");
    c.check(&gw);
    a.cancel(&gw);
    // It has it before it asks for it: nobody else can come in between.
    assert_eq!(holders(&fleet), json!(["127.0.0.3"]));
    assert_eq!(d.request(&gw), "requested");
    assert_eq!(c.check(&gw), "requested");
    assert_eq!(b.check(&gw), "permitted");
    b.cancel(&gw);
    assert_eq!((c.check(&gw), d.check(&gw)), ("permitted".into(), "requested".into()));
    for machine in [&c, &d, &d, &a] {
        machine.cancel(&gw);
        machine.cancel(&gw);
    }
    assert_eq!(holders(&fleet), json!([]));
    for machine in [&a, &b, &c, &d] {
        assert_eq!(machine.check(&gw), "denied");
        assert_eq!(fleet.document(&format!("disruption/{}", machine.id())), None);
    }
}

#[test]
fn the_groups_limit_is_what_its_tags_say() {
    let (fleet, gw) = gateway("");
    let machines: Vec<_> = (2..10).map(|n| Machine::new(n).tag(LIMIT, "3")).collect();
    let words: Vec<_> = machines.iter().map(|machine| machine.request(&gw)).collect();
    assert_eq!(words.iter().filter(|word| *word == "permitted").count(), 3, "{words:?}");
    assert_eq!(semaphore(&fleet, "web")["max"], 3);
    // One that says more is not let in for that, and does not make it so for the others.
    let liar = Machine::new(20).tag(LIMIT, "100");
    assert_eq!(liar.request(&gw), "requested");
    assert_eq!(semaphore(&fleet, "web")["max"], 3);
    // All free slots go to who waits, however many become free.
    for machine in &machines[..2] {
        machine.cancel(&gw);
    }
    assert_eq!(holders(&fleet), json!(["127.0.0.4", "127.0.0.5", "127.0.0.6"]));
    // A lower one counts at once, and throws nobody out.
    let careful = Machine::new(21).tag(LIMIT, "1");
    assert_eq!(careful.request(&gw), "requested");
    assert_eq!(semaphore(&fleet, "web")["max"], 1);
    assert_eq!(semaphore(&fleet, "web")["semaphore"], -2);
    machines[2].cancel(&gw);
    assert_eq!(holders(&fleet), json!(["127.0.0.5", "127.0.0.6"]), "nobody is promoted over it");
}

#[test]
fn a_limit_rises_by_itself_when_who_said_less_has_gone() {
    let (fleet, gw) = gateway("");
    let [a, b, c] =
        [(2, "3"), (3, "1"), (4, "3")].map(|(n, limit)| Machine::new(n).tag(LIMIT, limit));
    assert_eq!(a.request(&gw), "permitted");
    assert_eq!(b.request(&gw), "requested");
    assert_eq!(c.request(&gw), "requested");
    assert_eq!(semaphore(&fleet, "web")["max"], 1);
    b.cancel(&gw);
    poll("c has no slot", || holders(&fleet) == json!([a.id(), c.id()]));
    assert_eq!(semaphore(&fleet, "web")["max"], 3);
}

#[test]
fn a_group_in_which_nothing_happened_goes_with_the_last_that_asked_for_it() {
    let (fleet, gw) = gateway("");
    fleet.put("fleet/paused", r#"{"by":"eve","since":1}"#);
    let (a, b) = (Machine::new(2).tag(LIMIT, "3"), Machine::new(3));
    assert_eq!(a.request(&gw), "requested");
    assert_eq!(b.group("db").request(&gw), "requested");
    assert_eq!(semaphore(&fleet, "web")["max"], 3);
    a.cancel(&gw);
    poll("it stays", || fleet.document("groups/web/semaphore").is_none());
    assert_eq!(fleet.document("groups/web/disruption-limit"), None);
    assert_eq!(semaphore(&fleet, "db")["max"], 1, "somebody asks for it still");
    // It comes as it went.
    assert_eq!(a.request(&gw), "requested");
    fleet.take_away("fleet/paused");
    a.until(&gw, "permitted");
    assert_eq!(semaphore(&fleet, "web")["max"], 3);
}

#[test]
fn an_operators_limit_has_the_last_word() {
    let (fleet, gw) = gateway("[[group]]\nname = \"web\"\nslots = 2\n");
    let machines: Vec<_> = (2..6).map(|n| Machine::new(n).tag(LIMIT, "9")).collect();
    let words: Vec<_> = machines.iter().map(|machine| machine.request(&gw)).collect();
    assert_eq!(words, ["permitted", "permitted", "requested", "requested"]);
    assert_eq!(semaphore(&fleet, "web")["max"], 2);
}

#[test]
fn only_known_groups_count_if_that_is_wanted() {
    let (fleet, gw) =
        gateway("[gateway]\ndisruption_groups = \"known\"\n[[group]]\nname = \"web\"\nslots = 1\n");
    assert_eq!(Machine::new(2).tag(LIMIT, "5").request(&gw), "permitted");
    assert_eq!(Machine::new(3).tag(LIMIT, "5").request(&gw), "requested");
    let private = Machine::new(4).group("mine");
    let refused = private.ask(&gw, "request");
    assert_eq!(refused.status, 400, "{refused:?}");
    let said = "group mine is neither configured here nor in the store\n";
    assert_eq!(refused.body, said);
    assert_eq!(private.check(&gw), "denied");
    private.cancel(&gw);
    assert_eq!(semaphore(&fleet, "mine"), Value::Null);
}

#[test]
fn groups_are_tags_or_folders_of_images() {
    let (fleet, gw) = gateway("");
    let mut by_image = Machine::new(2);
    by_image.record = json!({"Hostname": "127.0.0.2", "RequiredImage": "base/web/v7"});
    assert_eq!(by_image.request(&gw), "permitted");
    assert_eq!(Machine::new(3).group("base/web").request(&gw), "requested");
    let mut of_nothing = Machine::new(4);
    of_nothing.record = json!({"Hostname": "127.0.0.4", "Tags": null});
    assert_eq!(of_nothing.request(&gw), "permitted");
    assert_eq!(Machine::new(5).group("").request(&gw), "permitted", "another group than that");
    assert_eq!(semaphore(&fleet, "base%2Fweb")["holders"], json!(["127.0.0.2"]));
    assert_eq!(semaphore(&fleet, ".")["holders"], json!(["127.0.0.4"]));
    assert_eq!(semaphore(&fleet, "default")["holders"], json!(["127.0.0.5"]));
}

#[test]
fn a_machine_keeps_its_slot_when_its_group_changes() {
    let (fleet, gw) = gateway("");
    let (before, after) = (Machine::new(2), Machine::new(2).group("db"));
    assert_eq!(before.request(&gw), "permitted");
    assert_eq!(Machine::new(3).request(&gw), "requested");
    assert_eq!(after.check(&gw), "denied", "it has asked for nothing there");
    assert_eq!(after.request(&gw), "requested", "it has one already");
    assert_eq!(after.check(&gw), "requested");
    assert_eq!(before.check(&gw), "permitted");
    assert_eq!(holders(&fleet), json!(["127.0.0.2"]));
    after.cancel(&gw);
    assert_eq!(holders(&fleet), json!(["127.0.0.3"]), "it went back to where it came from");
    assert_eq!((before.check(&gw), after.check(&gw)), ("denied".into(), "denied".into()));
    // Who waits goes to the other line.
    let other = Machine::new(4);
    assert_eq!(other.request(&gw), "requested");
    assert_eq!(other.clone().group("db").request(&gw), "permitted");
    assert_eq!(fleet.document("groups/web/queue/127.0.0.4"), None);
    assert_eq!(other.check(&gw), "denied");
}

#[test]
fn a_slot_in_one_group_is_no_permission_in_another() {
    let known = "[gateway]\ndisruption_groups = \"known\"\n\
                 [[group]]\nname = \"spare\"\nslots = 5\n[[group]]\nname = \"prod\"\nslots = 1\n";
    for config in [known, ""] {
        let (fleet, gw) = gateway(config);
        let (spare, prod) = (Machine::new(2).group("spare"), Machine::new(2).group("prod"));
        let other = Machine::new(3).group("prod");
        assert_eq!(other.request(&gw), "permitted");
        assert_eq!(spare.request(&gw), "permitted");
        for _ in 0..2 {
            assert_eq!(prod.request(&gw), "requested");
            assert_eq!(
                (prod.check(&gw), spare.check(&gw)),
                ("requested".into(), "permitted".into())
            );
        }
        other.cancel(&gw);
        assert_eq!(prod.check(&gw), "requested", "it is there, and has a slot");
        assert_eq!(semaphore(&fleet, "prod")["holders"], json!([]));
        assert_eq!(other.request(&gw), "permitted");
        // Back to where it was: what it wanted elsewhere is forgotten.
        assert_eq!(spare.request(&gw), "permitted");
        assert_eq!(prod.check(&gw), "denied");
        assert_eq!(prod.request(&gw), "requested");
        // What it takes back in one group it has not taken back in the other, and it stands in line there.
        spare.cancel(&gw);
        assert_eq!(semaphore(&fleet, "spare")["holders"], json!([]));
        assert_eq!((spare.check(&gw), prod.check(&gw)), ("denied".into(), "requested".into()));
        assert!(fleet.document("groups/prod/queue/127.0.0.2").is_some());
        other.cancel(&gw);
        assert_eq!(prod.check(&gw), "permitted");
        prod.cancel(&gw);
        assert_eq!(fleet.document("disruption/127.0.0.2"), None);
    }
}

#[test]
fn a_limit_of_one_group_is_none_of_another() {
    for ready in ["0s", "10m"] {
        let (fleet, gw) = gateway("");
        let a = Machine::new(2).tag(READY_TIMEOUT, ready);
        let a_elsewhere = a.clone().group("db").tag(LIMIT, "9");
        let b = Machine::new(3).tag(LIMIT, "9");
        assert_eq!(a.request(&gw), "permitted");
        assert_eq!(b.request(&gw), "requested");
        assert_eq!(a_elsewhere.request(&gw), "requested");
        assert_eq!(b.request(&gw), "requested");
        assert_eq!(
            (&semaphore(&fleet, "web")["max"], holders(&fleet)),
            (&json!(1), json!([a.id()]))
        );
        assert_eq!(semaphore(&fleet, "db")["max"], 9);
        a_elsewhere.cancel(&gw);
        if ready == "10m" {
            assert_eq!(b.request(&gw), "requested", "the slot is proven for still");
            let holder = json!([a.id()]);
            assert_eq!((&semaphore(&fleet, "web")["max"], holders(&fleet)), (&json!(1), holder));
        }
    }
}

#[test]
fn a_permission_that_ends_makes_room_for_the_wish_in_the_other_group() {
    let (fleet, gw) = gateway("[gateway]\ndisruption_permitted_secs = 2\n");
    let (before, after) = (Machine::new(2), Machine::new(2).group("db"));
    assert_eq!(before.request(&gw), "permitted");
    let lease = |fleet: &Fleet| {
        let text = fleet.document("disruption/127.0.0.2").unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["lease"].clone()
    };
    let began = lease(&fleet);
    assert_eq!(after.request(&gw), "requested");
    assert_eq!(lease(&fleet), began, "its time goes on as it was");
    // However often it asks.
    poll("its permission never ends", || after.request(&gw) == "permitted");
    assert_eq!(holders(&fleet), json!([]));
    assert_eq!(semaphore(&fleet, "db")["holders"], json!([after.id()]));
    gw.logged("permitted/expired->denied");
    assert_eq!(before.check(&gw), "denied");
}

#[test]
fn a_slot_that_somebody_else_took_away_makes_room_too() {
    let (fleet, gw) = gateway("");
    let (before, after) = (Machine::new(2), Machine::new(2).group("db"));
    assert_eq!(before.request(&gw), "permitted");
    assert_eq!(after.request(&gw), "requested");
    // A program that knows nothing of wishes.
    fleet.put("groups/web/semaphore", r#"{"semaphore":1,"max":1,"holders":[]}"#);
    after.until(&gw, "permitted");
    assert_eq!(before.check(&gw), "denied");
    assert_eq!(fleet.document("groups/web/holders/127.0.0.2"), None);
}

#[test]
fn all_clients_stand_in_one_line() {
    let (fleet, gw) = gateway("");
    let fleetlock = |path: &str, id: &str| gw.post(path, PROTOCOL, &params(id, "default"));
    let [a, b] = [2, 3].map(|n| Machine::new(n).group("default"));
    fleetlock("/v1/pre-reboot", "zincati").is_granted();
    assert_eq!(a.request(&gw), "requested");
    fleetlock("/v1/pre-reboot", "other").is_full();
    assert_eq!(b.request(&gw), "requested");
    fleetlock("/v1/steady-state", "zincati").is_granted();
    // The gateway sees it become free and gives it to who is next.
    poll("nobody was promoted", || semaphore(&fleet, "default")["holders"] == json!([a.id()]));
    assert_eq!((a.check(&gw), b.check(&gw)), ("permitted".into(), "requested".into()));
    fleetlock("/v1/pre-reboot", "other").is_full();
    a.cancel(&gw);
    assert_eq!(b.check(&gw), "requested", "it is kept for the one that asked first");
    fleetlock("/v1/pre-reboot", "other").is_granted();
    fleetlock("/v1/steady-state", "other").is_granted();
    b.until(&gw, "permitted");
    // A slot that came about in another way is not for it.
    fleetlock("/v1/pre-reboot", "127.0.0.9").is_full();
    b.cancel(&gw);
    fleetlock("/v1/pre-reboot", "127.0.0.9").is_granted();
    let taken = Machine::new(9).group("default");
    assert_eq!(taken.request(&gw), "denied");
    taken.cancel(&gw);
    assert_eq!(semaphore(&fleet, "default")["holders"], json!(["127.0.0.9"]));
}

#[test]
fn a_restart_in_between_forgets_nothing() {
    let fleet = Fleet::new("");
    let gw = fleet.start();
    let [a, b, c] = [2, 3, 4].map(Machine::new);
    assert_eq!(a.request(&gw), "permitted");
    assert_eq!(b.request(&gw), "requested");
    assert_eq!(c.request(&gw), "requested");
    gw.signal(Signal::KILL);
    drop(gw);
    let gw = fleet.start();
    assert_eq!(c.check(&gw), "requested");
    assert_eq!(a.check(&gw), "permitted");
    a.cancel(&gw);
    gw.signal(Signal::TERM);
    assert_eq!(gw.ended(), Some(0));
    let gw = fleet.start();
    assert_eq!((b.check(&gw), c.check(&gw)), ("permitted".into(), "requested".into()));
}

#[test]
fn who_loses_its_place_stands_in_line_again_as_long_as_its_wish_lasts() {
    let (fleet, gw) = gateway("");
    let [a, b, c] = [2, 3, 4].map(Machine::new);
    assert_eq!(a.request(&gw), "permitted");
    assert_eq!(b.request(&gw), "requested");
    assert_eq!(c.request(&gw), "requested");
    // Places go when no gateway keeps them.
    for place in fleet.places("/queue/") {
        fleet.take_away(&place);
    }
    poll("they do not stand in line again", || {
        let place = |machine: &Machine| {
            fleet.document(&format!("groups/web/queue/{}", machine.id())).is_some()
        };
        place(&b) && place(&c)
    });
}

#[test]
fn a_permission_and_a_wish_end_when_nobody_asks_again() {
    let (fleet, gw) = gateway("[gateway]\ndisruption_permitted_secs = 2\n");
    let [a, b, c] = [2, 3, 4].map(Machine::new);
    assert_eq!(a.request(&gw), "permitted");
    assert_eq!(b.request(&gw), "requested");
    poll("the wish of c ends", || {
        // It asks again and again, and so keeps its wish.
        assert_ne!(c.request(&gw), "denied");
        b.check(&gw);
        holders(&fleet) == json!(["127.0.0.4"])
    });
    gw.logged("permitted/expired->denied");
    assert_eq!((a.check(&gw), b.check(&gw)), ("denied".into(), "denied".into()));
    assert_eq!(c.check(&gw), "permitted");
    let key = fleet.places("history/").pop().expect("an entry of the history");
    let past: Value = serde_json::from_str(&fleet.document(&key).unwrap()).unwrap();
    assert_eq!((&past["ended"], &past["by"]), (&json!("overdue"), &json!("the gateway")));
}

#[test]
fn of_one_that_should_be_back_it_is_said_when_its_slot_goes() {
    let fleet = Fleet::new("[gateway]\ndisruption_permitted_secs = 80000\n");
    let gw = fleet.start();
    assert_eq!(Machine::new(2).request(&gw), "permitted");
    drop(gw);
    // As if it had it since 1970.
    let key = "groups/web/holders/127.0.0.2";
    let mut record: Value = serde_json::from_str(&fleet.document(key).unwrap()).unwrap();
    record["startTime"] = 1.into();
    fleet.put(key, &record.to_string());
    let gw = fleet.start();
    assert!(gw.logged("\"event\":\"overdue\"").contains("its permission ends"));
}

#[test]
fn pauses_holds_and_windows_stop_it_and_it_is_still_remembered() {
    let (fleet, gw) = gateway("");
    let [a, b] = [2, 3].map(Machine::new);
    assert_eq!(a.request(&gw), "permitted");
    assert_eq!(b.request(&gw), "requested");
    let put = |place: &str, value: Option<&str>| match value {
        Some(value) => fleet.put(place, value),
        None => fleet.take_away(place),
    };
    put("groups/web/paused", Some(r#"{"by":"eve","since":1}"#));
    assert_eq!((a.check(&gw), b.check(&gw)), ("requested".into(), "requested".into()));
    a.cancel(&gw);
    assert_eq!(holders(&fleet), json!([]), "nobody is promoted during a pause");
    assert_eq!(b.check(&gw), "requested");
    put("groups/web/paused", None);
    b.until(&gw, "permitted");
    put("holds/127.0.0.3", Some(r#"{"by":"eve","since":1}"#));
    assert_eq!(b.check(&gw), "requested");
    assert_eq!(holders(&fleet), json!(["127.0.0.3"]), "its slot stays");
    put("holds/127.0.0.3", None);
    assert_eq!(b.check(&gw), "permitted");
    fleet.configure("[[window]]\ndates = [\"2001-01-01\"]\n");
    gw.signal(Signal::HUP);
    b.until(&gw, "requested");
    let c = Machine::new(4);
    assert_eq!(c.request(&gw), "requested");
    assert_eq!(fleet.document("groups/web/queue/127.0.0.4"), None, "it is in nobody's way");
    fleet.configure("");
    gw.signal(Signal::HUP);
    b.until(&gw, "permitted");
    b.cancel(&gw);
    c.until(&gw, "permitted");
}

#[test]
fn a_gate_is_no_error() {
    let gate = "[[gate]]\nname = \"others\"\ntype = \"cluster\"\nmax_unhealthy = 0\n";
    let (fleet, gw) = gateway(gate);
    let [a, b] = [2, 3].map(Machine::new);
    assert_eq!(a.request(&gw), "permitted");
    assert_eq!(b.request(&gw), "requested");
    // Belongs to the group, and is not there.
    let away = r#"{"machineID":"x","groups":["web"],"firstSeen":1}"#;
    fleet.put("roster/x", away);
    assert_eq!((a.check(&gw), b.check(&gw)), ("requested".into(), "requested".into()));
    assert_eq!((a.request(&gw), b.request(&gw)), ("requested".into(), "requested".into()));
    a.cancel(&gw);
    assert_eq!(holders(&fleet), json!([]));
    assert!(!gw.log.lock().unwrap().iter().any(|line| line.contains("nobody was promoted")));
    fleet.take_away("roster/x");
    b.until(&gw, "permitted");
}

#[test]
fn a_slot_that_nobody_knows_about_is_permitted_to_its_machine_and_given_back() {
    let (fleet, gw) = gateway("");
    let [a, b] = [2, 3].map(Machine::new);
    assert_eq!(a.request(&gw), "permitted");
    fleet.take_away("disruption/127.0.0.2");
    assert_eq!(b.request(&gw), "requested");
    assert_eq!(a.check(&gw), "permitted");
    assert!(fleet.document("disruption/127.0.0.2").is_some(), "its time runs again");
    fleet.take_away("disruption/127.0.0.2");
    a.cancel(&gw);
    assert_eq!(b.check(&gw), "permitted");
}

#[test]
fn a_damaged_document_is_never_a_yes_and_stops_nobody_else() {
    let (fleet, gw) = gateway("");
    fleet.put("disruption/127.0.0.2", "?");
    let [a, b, c] = [2, 3, 4].map(Machine::new);
    for operation in ["check", "request", "cancel"] {
        let answer = a.ask(&gw, operation);
        assert_eq!(answer.status, 503, "{answer:?}");
    }
    assert_eq!(fleet.document("disruption/127.0.0.2").as_deref(), Some("?"));
    assert_eq!((b.request(&gw), c.request(&gw)), ("permitted".into(), "requested".into()));
    b.cancel(&gw);
    assert_eq!(c.check(&gw), "permitted");
}

#[test]
fn a_store_that_is_away_is_said_and_nothing_ends() {
    let fleet = Fleet::new("[gateway]\nanswer_within_secs = 1\n[store]\ntimeout_secs = 1\n");
    let gw = fleet.start();
    let a = Machine::new(2);
    assert_eq!(a.request(&gw), "permitted");
    let outage = fleet.without_store();
    for operation in ["check", "request", "cancel"] {
        let answer = a.ask(&gw, operation);
        let said = match outage.kind() {
            "store_failed" => {
                "the store of the lock does not answer as it should; whoever runs the gateway finds \
                 the reason in its log\n"
            }
            _ => "the store of the lock does not answer; ask again\n",
        };
        assert_eq!((answer.status, answer.body.as_str()), (503, said), "{operation}");
    }
    drop(outage);
    poll("the store does not come back", || a.ask(&gw, "check").status == 200);
    assert_eq!(a.check(&gw), "permitted");
}

#[test]
fn requests_are_counted_by_what_was_answered() {
    let (_fleet, gw) = gateway("");
    let a = Machine::new(2);
    a.request(&gw);
    a.cancel(&gw);
    gw.get(PATH);
    let metrics = gw.get("/metrics").body;
    for (kind, status) in [("permitted", 200), ("denied", 200), ("method_not_allowed", 405)] {
        let line = format!(
            "rebootlock_gateway_requests_total{{route=\"disruption\",kind=\"{kind}\",status=\"{status}\"}} 1\n"
        );
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
}
