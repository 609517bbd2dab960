//! `type = "inhibitor"`: open if no program asked logind not to let the machine go.

use rebootlock::config::gate::InhibitorGate;

use super::Verdict;
use super::answer::{clean, listed};
use crate::bus::Address;
use crate::logind::{Inhibiting, Logind};

pub(super) async fn ask(gate: &InhibitorGate, bus: &Address) -> Verdict {
    let asked = async { Logind::on(bus.connect().await?).await?.inhibiting().await };
    match asked.await {
        Ok(all) => judge(gate, all),
        Err(error) => Verdict::unknown(format!("logind does not answer: {error}")),
    }
}

fn judge(gate: &InhibitorGate, all: Vec<Inhibiting>) -> Verdict {
    let mut counted = Vec::new();
    for one in all {
        let of_mode = gate.mode.contains(&one.mode.as_str());
        let what = one.what.split(':').find(|what| gate.what.contains(what));
        if let (true, Some(what), false) = (of_mode, what, gate.ignore_who.contains(&one.who)) {
            let (who, why) = (clean(&one.who, 60), clean(&one.why, 100));
            let how = if one.mode == "delay" { "delays" } else { "blocks" };
            counted.push(format!("{who} {how} {what} ({why})"));
        }
    }
    if counted.is_empty() { Verdict::Open } else { Verdict::closed(listed(&counted, ", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mode_and_who_must_all_fit() {
        let one = |what: &str, who: &str, mode: &str| {
            let [what, who, why, mode] = [what, who, "x", mode].map(str::to_owned);
            vec![Inhibiting { what, who, why, mode }]
        };
        let ignore_who = vec!["gdm".to_owned()];
        let gate = InhibitorGate { what: vec!["shutdown"], mode: vec!["block"], ignore_who };
        let closed = judge(&gate, one("sleep:shutdown", "backup", "block"));
        assert_eq!(closed.why(), Some("backup blocks shutdown (x)"));
        for (what, who, mode) in [
            ("sleep", "backup", "block"),
            ("shutdown", "backup", "delay"),
            ("shutdown", "backup", "block-weak"),
            ("shutdown", "gdm", "block"),
        ] {
            assert_eq!(judge(&gate, one(what, who, mode)), Verdict::Open, "{what} {who} {mode}");
        }
    }
}
