//! The containers of one service among themselves, and beside the one whose
//! network they share.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::super::Cause;
use super::{Fate, Slot};

/// Containers that live in the namespace of `provider` go where it goes.
pub(super) fn follow_provider(
    dependency: &str,
    provider: Option<&Slot<'_>>,
    slots: &mut [Slot<'_>],
    no_recreate: bool,
    warnings: &mut Vec<String>,
) {
    let cause = Cause::Replaced {
        what: format!("service {dependency}"),
    };
    match provider.map(|provider| provider.fate) {
        Some(Fate::Create | Fate::Recreate) if no_recreate => {
            // What is started anyway finds the new one's then.
            for slot in slots
                .iter_mut()
                .filter(|slot| slot.fate == Fate::Keep && slot.is_running())
            {
                slot.hold = format!("service {dependency} was replaced, kept because of --no-recreate");
                warnings.push(format!(
                    "container {} needs to be replaced because service {dependency} is: run this command without \
                     --no-recreate",
                    slot.name
                ));
            }
        }
        Some(Fate::Create | Fate::Recreate) => {
            for slot in slots
                .iter_mut()
                .filter(|slot| matches!(slot.fate, Fate::Keep | Fate::Start | Fate::Restart))
            {
                slot.update = None;
                slot.decide(Fate::Recreate, cause.clone());
            }
        }
        Some(Fate::Start | Fate::Restart) => {
            for slot in slots
                .iter_mut()
                .filter(|slot| slot.fate == Fate::Keep && slot.is_running())
            {
                slot.decide(Fate::Restart, cause.clone());
            }
        }
        _ => {}
    }
}

/// Of containers with the same number, left by a crash, the best stays: one
/// that runs and is up to date, else the newest.
pub(super) fn remove_duplicates(slots: &mut [Slot<'_>]) {
    let mut best: BTreeMap<u32, (bool, u64, &str)> = BTreeMap::new();
    let rank = |slot: &Slot<'_>| -> Option<(bool, u64, String)> {
        let old = slot.old.filter(|_| slot.survives())?;
        Some((
            slot.fate == Fate::Keep && slot.is_running(),
            old.created,
            old.id.clone(),
        ))
    };
    let ranks: Vec<_> = slots.iter().map(rank).collect();
    for (slot, rank) in slots.iter().zip(&ranks) {
        let Some((fit, created, id)) = rank else { continue };
        let this = (*fit, *created, id.as_str());
        let best = best.entry(slot.number).or_insert(this);
        if *best < this {
            *best = this;
        }
    }
    for (slot, rank) in slots.iter_mut().zip(&ranks) {
        let Some((fit, created, id)) = rank.as_ref().filter(|_| slot.survives()) else {
            continue;
        };
        if best
            .get(&slot.number)
            .is_some_and(|best| *best != (*fit, *created, id.as_str()))
        {
            slot.update = None;
            slot.decide(Fate::Remove, Cause::Repair);
        }
    }
}

/// With more containers than replicas those that would be replaced anyhow go
/// first, then those with the highest numbers.
pub(super) fn remove_surplus(slots: &mut [Slot<'_>], replicas: u32) {
    let mut order: Vec<_> = slots.iter_mut().filter(|slot| slot.survives()).collect();
    let surplus = order
        .len()
        .saturating_sub(usize::try_from(replicas).unwrap_or(usize::MAX));
    order.sort_by_key(|slot| (slot.fate != Fate::Recreate, Reverse(slot.number)));
    for slot in order.into_iter().take(surplus) {
        slot.update = None;
        slot.decide(Fate::Remove, Cause::Surplus);
    }
}
