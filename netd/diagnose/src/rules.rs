//! Rules of anybody as text: their comments from the kernel, their words from `nft`, where it is installed.

use std::collections::HashMap;
use std::path::PathBuf;

use rnet_kernel::rules::{Base, Family, Table};
use rnet_kernel::{KernelError, Netns, NfTables};

use crate::program;

/// The ruleset of a namespace, read as far as it is asked for. One value is for one moment: nothing is read twice.
#[derive(Debug)]
pub struct RuleBook {
    ns: Netns,
    tables: NfTables,
    nft: Option<PathBuf>,
    chains: HashMap<Table, HashMap<String, Option<Base>>>,
    rules: HashMap<(Table, String), HashMap<u64, RuleText>>,
}

/// What is known about a rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleText {
    /// Its comment.
    pub comment: Option<String>,
    /// In the words of nft(8), without the comment of its handle.
    pub words: Option<String>,
}

impl RuleBook {
    /// Of a namespace.
    ///
    /// # Errors
    /// When the kernel has no nf_tables.
    pub fn open(ns: &Netns) -> Result<Self, KernelError> {
        Ok(RuleBook {
            ns: ns.clone(),
            tables: NfTables::open(ns)?,
            nft: program::find("nft"),
            chains: HashMap::new(),
            rules: HashMap::new(),
        })
    }

    /// The program that says what rules mean.
    pub fn nft(&self) -> Option<&PathBuf> {
        self.nft.as_ref()
    }

    /// All tables.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn tables(&mut self) -> Result<Vec<Table>, KernelError> {
        self.tables.tables()
    }

    /// The hooks of the base chains of a table.
    pub fn chains(&mut self, table: &Table) -> &HashMap<String, Option<Base>> {
        let RuleBook { tables, chains, .. } = self;
        chains.entry(table.clone()).or_insert_with(|| {
            let found = tables.chains(table).unwrap_or_default();
            found.into_iter().map(|chain| (chain.name, chain.base)).collect()
        })
    }

    /// The hook of a chain.
    pub fn base(&mut self, table: &Table, chain: &str) -> Option<Base> {
        self.chains(table).get(chain).cloned().flatten()
    }

    /// One rule, by its handle.
    pub fn rule(&mut self, table: &Table, chain: &str, handle: u64) -> RuleText {
        self.rules(table, chain).get(&handle).cloned().unwrap_or_default()
    }

    /// All rules of a chain, by handle.
    pub fn rules(&mut self, table: &Table, chain: &str) -> &HashMap<u64, RuleText> {
        let RuleBook { ns, tables, nft, rules, .. } = self;
        rules.entry((table.clone(), chain.to_owned())).or_insert_with(|| {
            let comments = tables.rules(table, chain).unwrap_or_default();
            let list = ["-s", "-a", "list", "chain", family(table.family), &table.name, chain];
            let said = nft.as_ref().and_then(|nft| ns.run(|| program::output(nft, list)).ok().flatten());
            let mut words: HashMap<u64, String> =
                said.iter().flat_map(|text| text.lines().filter_map(line)).map(|(h, w)| (h, w.to_owned())).collect();
            let text = |r: &rnet_kernel::rules::RuleInfo, words| RuleText { comment: r.comment.clone(), words };
            comments.iter().map(|r| (r.handle, text(r, words.remove(&r.handle)))).collect()
        })
    }
}

/// A family as nft(8) writes it.
pub fn family(family: Family) -> &'static str {
    match family {
        Family::Inet => "inet",
        Family::Ip => "ip",
        Family::Ip6 => "ip6",
        Family::Arp => "arp",
        Family::Bridge => "bridge",
        Family::Netdev => "netdev",
    }
}

/// A line of `nft -s -a list chain`: `tcp dport 80 drop # handle 4`.
fn line(line: &str) -> Option<(u64, &str)> {
    let (words, handle) = line.rsplit_once(" # handle ")?;
    Some((handle.trim().parse().ok()?, words.trim())).filter(|(_, words)| !words.ends_with('{'))
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn lines_with_handles_are_rules() {
        assert_eq!(line("\t\ttcp dport 80 drop # handle 4"), Some((4, "tcp dport 80 drop")));
        assert_eq!(line("\t\tlog prefix \" # handle 9\" # handle 5"), Some((5, "log prefix \" # handle 9\"")));
        assert_eq!(line("\tchain input { # handle 1"), None);
        assert_eq!(line("}"), None);
    }
}
