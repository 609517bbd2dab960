//! Liveness: from every state, the end is within reach by fair steps alone.
//!
//! Stateright's `eventually` overlooks cycles, and a protocol that tries again has cycles. So this
//! asks the question that has an exact answer on a finite graph: is there any reachable state
//! from which no course of fair steps (no fault, no intervention, nothing that was given up
//! arriving after all) leads to every machine rebooted and every slot, record and place gone? A
//! slot that belongs to nobody for ever, a waiter nobody lets in, a deadlock: each would be one.
//! What remains trusted is that chance picks a course that is open at every moment again and
//! again, which is what jitter is for.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use stateright::Model as _;

use super::{Protocol, Step, World};

/// What was found out.
#[derive(Debug)]
pub struct Reached {
    /// How many states were looked at.
    pub states: usize,
    /// How many of them are the end.
    pub ends: usize,
    /// The first state from which the end cannot be reached, and how it came about.
    pub stuck: Option<(Vec<Step>, Box<World>)>,
}

/// Looks at every reachable state.
pub fn every_state_reaches_the_end(protocol: &Protocol) -> Reached {
    let hasher = RandomState::new();
    let mut known: HashMap<u64, u32> = HashMap::new();
    // Whence a state was first reached; and for each, from which states one fair step leads there.
    let mut parents: Vec<Option<u32>> = Vec::new();
    let mut fair_into: Vec<Vec<u32>> = Vec::new();
    let mut ends = Vec::new();
    let mut layer: Vec<(u32, World)> = Vec::new();
    let mut enter = |world: &World, parent: Option<u32>, fair_into: &mut Vec<Vec<u32>>| {
        let next = known.len() as u32;
        let id = *known.entry(hasher.hash_one(world)).or_insert(next);
        if id == next {
            parents.push(parent);
            fair_into.push(Vec::new());
            if protocol.is_done(world) {
                ends.push(id);
            }
        }
        (id, id == next)
    };
    for world in protocol.init_states() {
        let (id, _) = enter(&world, None, &mut fair_into);
        layer.push((id, world));
    }
    while !layer.is_empty() {
        let mut deeper = Vec::new();
        for (id, world) in layer {
            let mut steps = Vec::new();
            protocol.fair_steps(&world, &mut steps);
            let fair = steps.len();
            steps.clear();
            protocol.every_step(&world, &mut steps);
            for (n, step) in steps.into_iter().enumerate() {
                let Some(next) = protocol.next_state(&world, step) else { continue };
                let (to, new) = enter(&next, Some(id), &mut fair_into);
                // The fair steps come first.
                if n < fair && fair_into[to as usize].last() != Some(&id) {
                    fair_into[to as usize].push(id);
                }
                if new {
                    deeper.push((to, next));
                }
            }
        }
        layer = deeper;
    }
    let mut reaches = vec![false; parents.len()];
    let mut open = ends.clone();
    open.iter().for_each(|end| reaches[*end as usize] = true);
    while let Some(state) = open.pop() {
        for from in &fair_into[state as usize] {
            if !std::mem::replace(&mut reaches[*from as usize], true) {
                open.push(*from);
            }
        }
    }
    let stuck = reaches.iter().position(|reaches| !reaches);
    let stuck = stuck.map(|state| retrace(protocol, &hasher, &known, &parents, state as u32));
    Reached { states: parents.len(), ends: ends.len(), stuck }
}

/// The steps that led to a state: only the states' names were kept, so they are taken again.
fn retrace(
    protocol: &Protocol,
    hasher: &RandomState,
    known: &HashMap<u64, u32>,
    parents: &[Option<u32>],
    state: u32,
) -> (Vec<Step>, Box<World>) {
    let mut way = vec![state];
    while let Some(parent) = way.last().and_then(|state| parents[*state as usize]) {
        way.push(parent);
    }
    way.reverse();
    let mut worlds = protocol.init_states();
    let mut world = worlds.remove(0);
    let mut taken = Vec::new();
    for next in &way[1..] {
        let steps = protocol.next_steps(&world);
        let found = steps.into_iter().find(|(_, to)| known.get(&hasher.hash_one(to)) == Some(next));
        let Some((step, to)) = found else { break };
        taken.push(step);
        world = to;
    }
    (taken, Box::new(world))
}
