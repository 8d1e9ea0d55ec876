//! What the kernel holds, and the commands that change it from one Service's rules to the next. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;

use crate::rules::{Chain, Element, Pick, ServiceRules};

/// The applied state of one table. [`State::update`] plans, [`State::take`] gives the commands planned so far;
/// if the kernel refuses them, start again from a fresh state and [`crate::rules::frame`].
#[derive(Debug)]
pub struct State {
    table: String,
    services: BTreeMap<String, ServiceRules>,
    /// How many Services hold an element; it exists while one does.
    elements: HashMap<Element, usize>,
    picks: BTreeSet<Pick>,
    pending: Pending,
}

/// Commands by phase: what is referred to comes before what refers to it, and goes after it.
#[derive(Debug, Default)]
struct Pending {
    make_chains: String,
    delete_elements: String,
    add_elements: String,
    remove_chains: String,
}

impl State {
    /// An empty table.
    pub fn new(table: &str) -> Self {
        State {
            table: table.to_owned(),
            services: BTreeMap::new(),
            elements: HashMap::new(),
            picks: BTreeSet::new(),
            pending: Pending::default(),
        }
    }

    /// Plans the change of one Service to `new`; empty rules remove it.
    pub fn update(&mut self, key: &str, new: ServiceRules) {
        let old = self.services.remove(key).unwrap_or_default();
        if old != new {
            for pick in &new.picks {
                // Shared chains stay: there are as many as distinct endpoint counts.
                if self.picks.insert(*pick) {
                    self.pending.make_chains.push_str(&pick.script(&self.table));
                }
            }
            self.change_chains(&old.chains, &new.chains);
            for element in old.elements.difference(&new.elements) {
                let count = self.elements.get_mut(element).map_or(0, |count| {
                    *count -= 1;
                    *count
                });
                if count == 0 {
                    self.elements.remove(element);
                    let _ = writeln!(
                        self.pending.delete_elements,
                        "delete element ip {} {} {{ {} }}",
                        self.table, element.container, element.key
                    );
                }
            }
            for element in new.elements.difference(&old.elements) {
                let count = self.elements.entry(element.clone()).or_insert(0);
                *count += 1;
                if *count == 1 {
                    let value = element.value.as_ref().map(|v| format!(" : {v}")).unwrap_or_default();
                    let _ = writeln!(
                        self.pending.add_elements,
                        "add element ip {} {} {{ {}{value} }}",
                        self.table, element.container, element.key
                    );
                }
            }
        }
        if new != ServiceRules::default() {
            self.services.insert(key.to_owned(), new);
        }
    }

    /// The commands since the last call, as one transaction; empty when nothing changed.
    pub fn take(&mut self) -> String {
        let Pending { make_chains, delete_elements, add_elements, remove_chains } =
            std::mem::take(&mut self.pending);
        [make_chains, delete_elements, add_elements, remove_chains].concat()
    }

    /// The Services with rules.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.services.keys().map(String::as_str)
    }

    fn change_chains(&mut self, old: &[Chain], new: &[Chain]) {
        let table = &self.table;
        let before: BTreeMap<&str, &Chain> = old.iter().map(|c| (c.name.as_str(), c)).collect();
        let after: BTreeSet<&str> = new.iter().map(|c| c.name.as_str()).collect();
        let make = &mut self.pending.make_chains;
        for chain in new {
            if before.get(chain.name.as_str()).is_some_and(|known| *known == chain) {
                continue;
            }
            for (set, seconds) in &chain.sets {
                let _ = writeln!(
                    make,
                    "add set ip {table} {set} {{ type ipv4_addr; flags dynamic,timeout; timeout {seconds}s; }}"
                );
            }
            let _ = writeln!(make, "add chain ip {table} {0}\nflush chain ip {table} {0}", chain.name);
            for rule in &chain.rules {
                let _ = writeln!(make, "add rule ip {table} {} {rule}", chain.name);
            }
        }
        let gone: Vec<&Chain> = old.iter().filter(|c| !after.contains(c.name.as_str())).collect();
        let remove = &mut self.pending.remove_chains;
        for chain in &gone {
            let _ = writeln!(remove, "flush chain ip {table} {}", chain.name);
        }
        for chain in &gone {
            let _ = writeln!(remove, "delete chain ip {table} {}", chain.name);
        }
        for (set, _) in gone.iter().flat_map(|c| &c.sets) {
            let _ = writeln!(remove, "delete set ip {table} {set}");
        }
    }
}

#[cfg(test)]
mod tests;
