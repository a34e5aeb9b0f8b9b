//! Routes that can never win.
//!
//! A route is shadowed where everything it takes is taken by routes before it. Since a route that goes before another by
//! its host or path is for fewer hosts or paths, only routes with the same host and path patterns can do that to each
//! other; and among those, the ones whose conditions follow from its own, if together they name all of its methods.

use sluice_vocabulary::{Fault, Faults, Path};

use crate::conditions::Methods;
use crate::table::Table;

/// How many routes before it a route is compared with. Beyond this many of the same host and path patterns, not all
/// shadows are found: it is a help, and must not make a huge configuration slow to load.
const COMPARED_WITH: usize = 256;

/// Warns of routes that are shadowed under every host they are for.
pub(crate) fn warn(table: &Table, places: &[Path], faults: &mut Faults) {
    let mut slots_of = vec![0_usize; table.routes.len()];
    let mut shadowed_in = vec![0_usize; table.routes.len()];
    let mut shadowed_by = vec![None; table.routes.len()];
    for slot in &table.slots {
        for (position, &index) in slot.iter().enumerate() {
            let index = index as usize;
            slots_of[index] += 1;
            let before = &slot[position.saturating_sub(COMPARED_WITH)..position];
            if let Some(by) = who_shadows(table, index, before) {
                shadowed_in[index] += 1;
                shadowed_by[index] = Some(by);
            }
        }
    }
    for (index, route) in table.routes.iter().enumerate() {
        if let Some(by) = shadowed_by[index]
            && shadowed_in[index] == slots_of[index]
        {
            let by = &table.routes[by];
            let message = format!(
                "route {:?} can never win: {:?} takes all that it is for",
                route.name.as_str(),
                by.name.as_str()
            );
            let help =
                format!("it is at {}; move this route before it, or give it another condition", places[by.index]);
            faults.push(Fault::warning(&places[index], message).help(help));
        }
    }
}

fn who_shadows(table: &Table, index: usize, before: &[u32]) -> Option<usize> {
    let route = &table.routes[index];
    let mut taken = Methods::none();
    for &other in before {
        let other = &table.routes[other as usize];
        if other.conditions.follow_from(&route.conditions) {
            taken.add_all(&other.methods);
            if taken.cover(&route.methods) {
                return Some(other.index);
            }
        }
    }
    None
}
