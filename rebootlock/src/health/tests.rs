use proptest::prelude::*;

use super::*;
use crate::record::Document as _;

/// What a machine of a test is like.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Well,
    Unwell,
    Stale,
    Silent,
    Missing,
    Garbled,
    /// Has a slot and is still up.
    Holding,
    Rebooting,
    Verifying,
    Failed,
}

/// When everybody is looked at.
const NOW: UnixTime = UnixTime(10_000);

const KINDS: [Kind; 10] = [
    Kind::Well,
    Kind::Unwell,
    Kind::Stale,
    Kind::Silent,
    Kind::Missing,
    Kind::Garbled,
    Kind::Holding,
    Kind::Rebooting,
    Kind::Verifying,
    Kind::Failed,
];

fn id(name: &str) -> MachineId {
    MachineId::new(name).unwrap()
}

fn group(name: &str) -> Group {
    Group::new(name).unwrap()
}

/// One whose agent looked so many seconds ago.
fn presence(name: &str, health: Option<bool>, ago: i64) -> Presence {
    let at = NOW.0 - ago;
    let health = match health {
        None => String::new(),
        Some(true) => format!(r#","health":{{"healthy":true,"checkedAt":{at}}}"#),
        Some(false) => {
            format!(r#","health":{{"healthy":false,"reason":"disk","checkedAt":{at}}}"#)
        }
    };
    let text = format!(
        r#"{{"machineID":"{name}","hostname":"{name}.example","groups":["lb"],"state":"idle","stateSince":1{health}}}"#
    );
    Presence::from_json(text.as_bytes()).unwrap()
}

fn member(name: &str, kind: Kind) -> Member {
    let entry = format!(
        r#"{{"machineID":"{name}","hostname":"{name}.example","groups":["lb"],"firstSeen":1}}"#
    );
    let slot = |state| Some(Slot { state: Some(state), since: None });
    Member {
        roster: Some(RosterEntry::from_json(entry.as_bytes())),
        presence: match kind {
            Kind::Well | Kind::Holding => Some(Ok(presence(name, Some(true), 600))),
            Kind::Stale => Some(Ok(presence(name, Some(true), 3601))),
            Kind::Unwell | Kind::Verifying | Kind::Failed => {
                Some(Ok(presence(name, Some(false), 600)))
            }
            Kind::Silent => Some(Ok(presence(name, None, 0))),
            Kind::Missing | Kind::Rebooting => None,
            Kind::Garbled => Some(Presence::from_json(b"?")),
        },
        slot: match kind {
            Kind::Holding => slot(HolderState::Holding),
            Kind::Rebooting => slot(HolderState::Rebooting),
            Kind::Verifying => slot(HolderState::Verifying),
            Kind::Failed => slot(HolderState::Failed),
            _ => None,
        },
    }
}

/// Machines `m0`, `m1`, … of these kinds.
fn fleet(kinds: &[Kind]) -> Fleet {
    let named = kinds.iter().enumerate().map(|(n, kind)| (format!("m{n}"), *kind));
    Fleet { members: named.map(|(name, kind)| (id(&name), member(&name, kind))).collect() }
}

fn rules(min_healthy: Option<MinHealthy>, max_unhealthy: u64) -> ClusterRules {
    let groups = vec![group("lb")];
    ClusterRules { min_healthy, max_unhealthy: Some(max_unhealthy), groups, ..Default::default() }
}

#[test]
fn it_is_counted_as_if_this_machine_were_down() {
    use Kind::Well;
    let three = rules(Some(MinHealthy::Count(3)), 0);
    let said = judge(&three, &fleet(&[Well, Well, Well]), &id("m0"), NOW);
    assert_eq!(
        said[0].to_string(),
        "without this machine 2 of 3 would be healthy; at least 3 must be"
    );
    assert_eq!(judge(&three, &fleet(&[Well; 4]), &id("m0"), NOW), []);
    // Not enrolled yet, it counts all the same.
    assert_eq!(judge(&three, &fleet(&[Well; 3]), &id("new"), NOW), []);
    let share = rules(Some(MinHealthy::Percent(76)), 0);
    assert_eq!(judge(&share, &fleet(&[Well; 3]), &id("new"), NOW).len(), 1);
}

#[test]
fn shares_are_exact() {
    for (healthy, total, percent, met) in [
        (7, 25, 28, true),
        (6, 25, 28, false),
        (2, 3, 66, true),
        (2, 3, 67, false),
        (0, 1, 0, true),
        (0, 1, 1, false),
        (3, 3, 100, true),
    ] {
        assert_eq!(MinHealthy::Percent(percent).is_met(healthy, total), met, "{healthy}/{total}");
    }
}

#[test]
fn nobody_unwell_is_tolerated_unless_allowed() {
    use Kind::{Garbled, Missing, Silent, Stale, Unwell, Well};
    for kind in [Unwell, Missing, Garbled, Silent, Stale] {
        let fleet = fleet(&[Well, kind, Well]);
        assert_eq!(judge(&rules(None, 0), &fleet, &id("m0"), NOW).len(), 1, "{kind:?}");
        assert_eq!(judge(&rules(None, 1), &fleet, &id("m0"), NOW), [], "{kind:?}");
        // The one that asks is not held against itself.
        assert_eq!(judge(&rules(None, 0), &fleet, &id("m1"), NOW), [], "{kind:?}");
    }
    let unsaid = ClusterRules { max_unhealthy: None, ..rules(None, 9) };
    let said = judge(&unsaid, &fleet(&[Well, Unwell, Missing, Missing, Garbled]), &id("m0"), NOW);
    assert_eq!(
        said[0].to_string(),
        "m1.example is unhealthy: disk, m2.example is not there, m3.example is not there and 1 more"
    );
}

#[test]
fn a_share_that_must_be_well_alone_decides_how_many_may_be_unwell() {
    use Kind::{Missing, Unwell, Well};
    let share =
        |max_unhealthy| ClusterRules { max_unhealthy, ..rules(Some(MinHealthy::Percent(60)), 0) };
    let fleet = |unwell| fleet(&[Well, Well, Well, Well, unwell]);
    assert_eq!(judge(&share(None), &fleet(Unwell), &id("m0"), NOW), []);
    assert_eq!(judge(&share(Some(0)), &fleet(Unwell), &id("m0"), NOW).len(), 1);
    let few = ClusterRules { min_healthy: Some(MinHealthy::Percent(61)), ..share(None) };
    assert_eq!(
        judge(&few, &fleet(Missing), &id("m0"), NOW)[0].to_string(),
        "without this machine 3 of 5 would be healthy; at least 61 % must be: m4.example is not there"
    );
}

#[test]
fn who_has_a_slot_for_it_may_be_down_but_is_not_counted_on() {
    use Kind::{Failed, Holding, Rebooting, Verifying, Well};
    for kind in [Rebooting, Verifying, Holding] {
        let fleet = fleet(&[Well, kind, Well]);
        assert_eq!(judge(&rules(None, 0), &fleet, &id("m0"), NOW), [], "{kind:?}");
        let two = rules(Some(MinHealthy::Count(2)), 0);
        assert_eq!(judge(&two, &fleet, &id("m0"), NOW).len(), 1, "{kind:?}");
    }
    assert_eq!(judge(&rules(None, 0), &fleet(&[Well, Failed]), &id("m0"), NOW).len(), 1);
}

#[test]
fn fallback_machines_must_not_be_all_that_is_left() {
    use Kind::{Missing, Well};
    let fallback = |name: &str| ClusterRules { fallback: vec![name.into()], ..rules(None, 9) };
    for name in ["m1", "m1.example"] {
        let said = judge(&fallback(name), &fleet(&[Well, Well]), &id("m0"), NOW);
        assert_eq!(said, [Complaint::OnlyFallbackLeft], "{name}");
        assert_eq!(judge(&fallback(name), &fleet(&[Well, Well, Missing]), &id("m0"), NOW).len(), 1);
        assert_eq!(judge(&fallback(name), &fleet(&[Well, Well, Well]), &id("m0"), NOW), []);
        // The fallback itself may go while another is left.
        assert_eq!(judge(&fallback(name), &fleet(&[Well, Well]), &id("m1"), NOW), []);
    }
}

#[test]
fn other_groups_do_not_count_and_what_cannot_be_read_does() {
    use Kind::{Garbled, Unwell, Well};
    let elsewhere = ClusterRules { groups: vec![group("db")], ..rules(None, 0) };
    let mut fleet = fleet(&[Well, Unwell, Garbled]);
    assert_eq!(judge(&elsewhere, &fleet, &id("m0"), NOW), []);
    // Now nobody can tell whose it is.
    fleet.members.get_mut(&id("m2")).unwrap().roster = None;
    assert_eq!(judge(&elsewhere, &fleet, &id("m0"), NOW).len(), 1);
    assert_eq!(fleet.unreadable().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["m2"]);
    assert_eq!(judge_without_rules(&[group("db")], &fleet, &id("m0"), NOW).len(), 1);
}

#[test]
fn without_rules_only_those_who_say_so_block() {
    use Kind::*;
    for (kind, blocks) in [
        (Well, false),
        (Unwell, true),
        (Stale, true),
        (Silent, false),
        (Missing, false),
        (Garbled, true),
        (Holding, false),
        (Rebooting, false),
        (Verifying, false),
        (Failed, true),
    ] {
        let said = judge_without_rules(&[group("lb")], &fleet(&[Well, kind]), &id("m0"), NOW);
        assert_eq!(said.len() == 1, blocks, "{kind:?}: {said:?}");
    }
}

#[test]
fn that_a_machine_is_well_holds_for_an_hour_by_the_readers_clock() {
    let standing = |health, ago| {
        let presence = Some(Ok(presence("m1", health, ago)));
        Member { presence, ..Member::default() }.standing(NOW)
    };
    assert_eq!(standing(Some(true), 3600), Standing::Healthy);
    let stale = Sickness::Stale(UnixTime(NOW.0 - 3601));
    assert_eq!(stale.to_string(), "has not looked at itself since 1970-01-01T01:46:39Z");
    assert_eq!(standing(Some(true), 3601), Standing::Unhealthy(stale));
    // A clock that is ahead of ours is no reason, unless it is so far that this would hold for ever.
    assert_eq!(standing(Some(true), -3600), Standing::Healthy);
    let ahead = Sickness::Ahead(UnixTime(NOW.0 + 3601));
    assert!(ahead.is_said());
    assert_eq!(standing(Some(true), -3601), Standing::Unhealthy(ahead));
    // That it is unwell does not get old.
    let says = Sickness::Says(Some("disk".into()));
    assert_eq!(standing(Some(false), 9000), Standing::Unhealthy(says));
}

prop_compose! {
    fn some_rules()(
        least in prop::option::of(prop_oneof![
            (0..12_u64).prop_map(MinHealthy::Count),
            (0..=100_u8).prop_map(MinHealthy::Percent),
        ]),
        most in prop::option::of(0..6_u64),
        fallback in prop::collection::vec((0..10_usize).prop_map(|n| format!("m{n}")), 0..3),
    ) -> ClusterRules {
        let groups = vec![group("lb")];
        ClusterRules { min_healthy: least, max_unhealthy: most, fallback, groups }
    }
}

fn some_kinds() -> impl Strategy<Value = Vec<Kind>> {
    prop::collection::vec(prop::sample::select(&KINDS[..]), 1..12)
}

proptest! {
    /// However many hold a slot at the same time and ask at the same time: once all who were let
    /// go are down, as many are well as the rules ask for.
    #[test]
    fn those_let_go_together_leave_enough(rules in some_rules(), kinds in some_kinds()) {
        let fleet = fleet(&kinds);
        let holds = |n: &usize| kinds[*n] == Kind::Holding;
        let goes = |n: &usize| judge(&rules, &fleet, &id(&format!("m{n}")), NOW).is_empty();
        let gone: Vec<usize> = (0..kinds.len()).filter(holds).filter(goes).collect();
        if !gone.is_empty() {
            let left: Vec<usize> = (0..kinds.len()).filter(|n| kinds[*n] == Kind::Well).collect();
            prop_assert!(rules.min_healthy.is_none_or(|least| least.is_met(left.len(), kinds.len())));
            let regular = left.iter().any(|n| !rules.fallback.contains(&format!("m{n}")));
            prop_assert!(rules.fallback.is_empty() || regular);
        }
    }

    /// A machine that falls ill never opens the way for another.
    #[test]
    fn bad_news_never_helps(rules in some_rules(), kinds in some_kinds(), which in any::<usize>()) {
        let sick = which % kinds.len();
        let me = id("asks");
        let before = judge(&rules, &fleet(&kinds), &me, NOW);
        let well: Vec<Kind> = kinds
            .iter()
            .enumerate()
            .map(|(n, kind)| if n == sick { Kind::Well } else { *kind })
            .collect();
        if judge(&rules, &fleet(&well), &me, NOW).len() == 1 && before.is_empty() {
            prop_assert!(false, "well: refused; {:?}: let go", kinds[sick]);
        }
        prop_assert!(judge(&rules, &fleet(&well), &me, NOW).len() <= before.len());
    }

    #[test]
    fn the_one_that_asks_makes_no_difference_to_itself(
        rules in some_rules(), kinds in some_kinds(), other in prop::sample::select(&KINDS[..])
    ) {
        let mut changed = kinds.clone();
        changed[0] = other;
        let me = id("m0");
        prop_assert_eq!(judge(&rules, &fleet(&kinds), &me, NOW), judge(&rules, &fleet(&changed), &me, NOW));
    }
}
