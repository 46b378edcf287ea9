//! Firewalls of others beside rnet's tables: the packet has to pass all of them.

use rnet_api::{Finding, Severity};
use rnet_kernel::rules::{Family, Hook};

use super::sysctls::is_dropping;
use crate::doctor::{ChainFact, Facts, Service, TableFact, finding};
use crate::rules::family;

fn chains_of(facts: &Facts) -> impl Iterator<Item = (&TableFact, &ChainFact)> {
    let ip = |t: &&TableFact| matches!(t.family, Family::Inet | Family::Ip | Family::Ip6);
    facts.tables.iter().filter(ip).flat_map(|t| t.chains.iter().map(move |c| (t, c)))
}

fn name(table: &TableFact, chain: &ChainFact) -> String {
    format!("{} {} {}", family(table.family), table.name, chain.name)
}

/// The forward chains of others that drop by policy, in words.
pub(super) fn forward_drops(facts: &Facts, v4: bool) -> Vec<String> {
    let fits = |t: &TableFact| t.family == Family::Inet || (t.family == Family::Ip) == v4;
    let mut out: Vec<String> = chains_of(facts)
        .filter(|(t, c)| fits(t) && c.base.as_ref().is_some_and(|b| is_dropping(b, Hook::Forward)))
        .map(|(t, c)| format!("the policy of chain {}", name(t, c)))
        .collect();
    if v4 && facts.legacy_forward.as_deref() == Some("DROP") {
        out.push("the policy of FORWARD of iptables-legacy".to_owned());
    }
    out
}

/// Whether a rule discards what it matches.
fn discards(rule: &str) -> bool {
    let mut words = rule.split_whitespace();
    words.any(|word| word == "drop" || word == "reject")
}

/// Base chains of others that drop.
pub(in crate::doctor) fn chains(facts: &Facts) -> Vec<Finding> {
    let mut out = Vec::new();
    for (table, chain) in chains_of(facts) {
        let Some(base) = &chain.base else { continue };
        let called = name(table, chain);
        if is_dropping(base, Hook::Forward) {
            let docker = table.chains.iter().any(|c| c.name == "DOCKER-USER");
            let whose = if docker { " (Docker's)" } else { "" };
            let text = format!(
                "chain {called}{whose} has policy drop at forward, priority {}: it decides about traffic of containers to \
                 the outside and about published ports, whatever rnet accepts",
                base.priority
            );
            let fix = match docker {
                true => {
                    "let rnet's traffic pass: iptables -I DOCKER-USER -i BRIDGE -j ACCEPT and -o BRIDGE, per bridge"
                        .to_owned()
                }
                false => format!(
                    "accept what is for containers there: nft insert rule {called} iifname \"rn*\" accept, and oifname \"rn*\""
                ),
            };
            out.push(finding(Severity::Warning, text, fix));
        } else if is_dropping(base, Hook::Input) {
            let text = format!(
                "chain {called} has policy drop at input, priority {}: containers reach services of the host only as its \
                 rules say, and published ports are closed to the outside as the host's other ports are",
                base.priority
            );
            let fix = format!("nothing, if it is meant so; else accept what containers need in {called}");
            out.push(finding(Severity::Note, text, fix));
        } else if base.hook == Hook::Forward
            && let Some(rule) = chain.rules.iter().find(|rule| discards(rule))
        {
            let count = chain.rules.iter().filter(|rule| discards(rule)).count();
            let text = format!("chain {called} at forward has {count} rules that drop, the first is: {rule}");
            out.push(finding(Severity::Note, text, "rnet explain SRC DST says which rule decides about a packet"));
        }
    }
    out
}

/// Firewall managers that write their tables anew.
pub(in crate::doctor) fn managers(facts: &Facts) -> Vec<Finding> {
    let mut out = Vec::new();
    if facts.services.contains(&Service::Firewalld) {
        out.push(finding(
            Severity::Note,
            "firewalld runs: its zones decide beside rnet's tables, and a reload writes its rules anew",
            "put rnet's bridges into a zone that accepts: firewall-cmd --permanent --zone=trusted --add-interface=BRIDGE",
        ));
    }
    if facts.services.contains(&Service::Ufw) {
        out.push(finding(
            Severity::Note,
            "ufw is enabled: routed traffic is denied unless it says otherwise",
            "ufw route allow in on BRIDGE and out on BRIDGE, or DEFAULT_FORWARD_POLICY=\"ACCEPT\" in /etc/default/ufw",
        ));
    }
    out
}

/// iptables-legacy decides beside nf_tables and is not seen by nft.
pub(in crate::doctor) fn legacy(facts: &Facts) -> Vec<Finding> {
    if facts.legacy_tables.is_empty() {
        return Vec::new();
    }
    let tables = facts.legacy_tables.join(", ");
    if facts.legacy_forward.as_deref() == Some("DROP") {
        let text =
            format!("iptables-legacy has tables ({tables}), and its FORWARD policy is DROP; nft does not show them");
        return vec![finding(Severity::Warning, text, "iptables-legacy -P FORWARD ACCEPT, or change to iptables-nft")];
    }
    let text = format!(
        "iptables-legacy has tables ({tables}): their rules decide too, and neither nft nor rnet explain shows them"
    );
    vec![finding(Severity::Note, text, "look at them: iptables-legacy-save; better change to iptables-nft")]
}
