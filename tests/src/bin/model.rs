//! The model, deeper than the suite checks it: `model [FAULTS [INTERVENTIONS]]`.

use rebootlock_tests::model::Bounds;
use rebootlock_tests::model::fair::every_state_reaches_the_end;
use rebootlock_tests::model::fleets::{FLEETS, check, protocol};

fn main() -> anyhow::Result<()> {
    let mut numbers = std::env::args().skip(1);
    let mut number = |default: u8| numbers.next().map_or(Ok(default), |text| text.parse());
    let bounds = Bounds { faults: number(2)?, interventions: number(2)? };
    for fleet in FLEETS {
        let started = std::time::Instant::now();
        let states = check(fleet, bounds).map_err(anyhow::Error::msg)?;
        println!("{fleet:?}, {bounds:?}: {states} states safe, {:?}", started.elapsed());
        let reached = every_state_reaches_the_end(&protocol(fleet, bounds));
        if let Some((steps, world)) = reached.stuck {
            anyhow::bail!("no way to the end after {steps:#?}\nwith {world:#?}");
        }
        println!("{} states reach the end, {:?}", reached.states, started.elapsed());
    }
    Ok(())
}
