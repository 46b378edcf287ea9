//! The host's table `filter`, as iptables(8) makes it, where its policy throws forwarded packets away. Only rules of
//! this plugin are touched, and only expressions iptables(8) can list are used: one it cannot would hide the table.

use ipnetwork::IpNetwork;
use rnet_kernel::KernelError;
use rnet_kernel::rules::{
    Chain, Changes, Expr, Family, Field, Hook, Ip, NfTables, Place, Policy, Rule, RuleInfo, Selector, Table, Verdict,
};
use rnet_plan::{Action, Plan};

use crate::table::Ipv;

const CHAIN: &str = "RNET-CNI";
const FORWARD: &str = "FORWARD";
/// Of the rule that leads to the chain.
const JUMP: &str = "rnet-cni";

/// A `filter` table that drops.
#[derive(Debug)]
pub(super) struct HostFilter {
    table: Table,
    v: Ipv,
    /// Names of its chains.
    chains: Vec<String>,
}

fn table(v: Ipv) -> Table {
    Table::new(if v == Ipv::V4 { Family::Ip } else { Family::Ip6 }, "filter")
}

impl HostFilter {
    /// `None` where forwarded packets pass.
    pub(super) fn dropping(tables: &mut NfTables, v: Ipv) -> Result<Option<Self>, KernelError> {
        let table = table(v);
        let chains = tables.chains(&table)?;
        let drops = |c: &rnet_kernel::rules::ChainInfo| {
            c.name == FORWARD && c.base.as_ref().is_some_and(|b| b.hook == Hook::Forward && b.policy == Policy::Drop)
        };
        let found = chains.iter().any(drops);
        Ok(found.then(|| HostFilter { table, v, chains: chains.into_iter().map(|c| c.name).collect() }))
    }

    fn has(&self, chain: &str) -> bool {
        self.chains.iter().any(|c| c == chain)
    }

    fn rules(&self, tables: &mut NfTables, chain: &str) -> Result<Vec<RuleInfo>, KernelError> {
        if self.has(chain) { tables.rules(&self.table, chain) } else { Ok(Vec::new()) }
    }

    /// How many rules a comment has.
    pub(super) fn rules_of(&self, tables: &mut NfTables, owner: &str) -> Result<usize, KernelError> {
        Ok(self.rules(tables, CHAIN)?.iter().filter(|r| r.comment.as_deref() == Some(owner)).count())
    }

    /// Whether packets are led to the chain.
    pub(super) fn leads(&self, tables: &mut NfTables) -> Result<bool, KernelError> {
        Ok(self.rules(tables, FORWARD)?.iter().any(|r| r.comment.as_deref() == Some(JUMP)))
    }

    /// Adds what lets packets of these addresses pass. To be committed against the generation before
    /// [`HostFilter::dropping`]: whether somebody leads to the chain already is looked at here.
    pub(super) fn admit(
        &self,
        tables: &mut NfTables,
        addresses: &[IpNetwork],
        owner: &str,
        admin: &str,
        changes: &mut Changes,
    ) -> Result<(), KernelError> {
        let jump = |from: &str, to: &str| {
            Rule::new(from, [Expr::Counter, Expr::Verdict(Verdict::Jump(to.into()))]).comment(JUMP)
        };
        let there = self.rules(tables, CHAIN)?;
        changes.ensure_chain(&self.table, Chain::plain(CHAIN));
        if !self.leads(tables)? {
            changes.add_rule(&self.table, jump(FORWARD, CHAIN), Place::First);
            // Whoever emptied FORWARD has left the one in the chain.
            if self.has(admin) && !there.iter().any(|r| r.comment.as_deref() == Some(JUMP)) {
                changes.add_rule(&self.table, jump(CHAIN, admin), Place::First);
            }
        }
        for stale in there.into_iter().filter(|r| r.comment.as_deref() == Some(owner)) {
            changes.destroy_rule(&self.table, CHAIN, stale.handle);
        }
        for address in addresses {
            for field in [Ip::Saddr, Ip::Daddr] {
                let selector = if self.v == Ipv::V4 { Selector::Ip(field) } else { Selector::Ip6(field) };
                let exprs =
                    [Expr::is(selector, Field::from(address.ip())), Expr::Counter, Expr::Verdict(Verdict::Accept)];
                changes.add_rule(&self.table, Rule::new(CHAIN, exprs).comment(owner), Place::Last);
            }
        }
        Ok(())
    }
}

/// Plans the removal of the rules with such comments, and of each chain with the last of them.
pub(super) fn forget(tables: &mut NfTables, whose: &dyn Fn(&str) -> bool, plan: &mut Plan) -> Result<(), KernelError> {
    let generation = tables.generation()?;
    let mut changes = Changes::new();
    for table in Ipv::BOTH.map(table) {
        if !tables.chains(&table)?.iter().any(|c| c.name == CHAIN) {
            continue;
        }
        let is = |r: &RuleInfo, test: &dyn Fn(&str) -> bool| r.comment.as_deref().is_some_and(test);
        let rules = tables.rules(&table, CHAIN)?;
        for rule in rules.iter().filter(|r| is(r, whose)) {
            changes.destroy_rule(&table, CHAIN, rule.handle);
        }
        if rules.iter().any(|r| !is(r, &|c| c == JUMP || whose(c))) {
            continue;
        }
        for rule in tables.rules(&table, FORWARD)?.into_iter().filter(|r| is(r, &|c| c == JUMP)) {
            changes.destroy_rule(&table, FORWARD, rule.handle);
        }
        changes.destroy_chain(&table, CHAIN);
    }
    if !changes.is_empty() {
        // Whoever comes in between may put a rule there, or take the last other one away.
        plan.step("cni.firewall.chain", Action::TablesUnlessChanged(changes, generation));
    }
    Ok(())
}
