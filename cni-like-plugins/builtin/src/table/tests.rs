#![allow(clippy::unwrap_used)]
use rnet_kernel::rules::{Changes, NfTables};
use rnet_plan::{Surfaces, apply};

use super::*;
use crate::testing::Bench;

fn commit(tables: &mut NfTables, changes: &Changes) {
    tables.commit(changes, None).unwrap();
}

fn nets(all: &[&str]) -> Vec<IpNetwork> {
    all.iter().map(|net| net.parse().unwrap()).collect()
}

#[test]
fn masquerading_ends_whatever_the_removal_was_told() {
    let Some(mut bench) = Bench::real() else { return };
    let changes =
        hide(bench.surfaces.tables().unwrap(), nets(&["10.1.0.2/24", "fd00::2/64"]).into_iter(), "mine").unwrap();
    commit(bench.surfaces.tables().unwrap(), &changes);
    let mut plan = Plan::default();
    let wrong = ["10.1.0.3".parse().unwrap(), "fd00::2".parse().unwrap()];
    show(bench.surfaces.tables().unwrap(), &wrong, "mine", &mut plan).unwrap();
    apply(&plan, &mut bench.surfaces).unwrap();
    assert_eq!(bench.on_host("nft", &["list", "ruleset"]), "");
}

#[test]
fn subnets_within_each_other_in_one_call() {
    let Some(mut bench) = Bench::real() else { return };
    let all = nets(&["10.1.2.5/24", "10.1.0.5/16", "10.1.2.6/24", "fd00:1::1/64", "fd00::1/16"]);
    for _ in 0..2 {
        let changes = hide(bench.surfaces.tables().unwrap(), all.iter().copied(), "mine").unwrap();
        commit(bench.surfaces.tables().unwrap(), &changes);
        for v in Ipv::BOTH {
            assert_eq!(elements(bench.surfaces.tables().unwrap(), &v.own()).unwrap().len(), 1);
        }
    }
}
