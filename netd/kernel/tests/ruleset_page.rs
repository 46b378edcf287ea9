//! docs/ruleset.md shows the rules that netd installs.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use rnet_kernel::{Filter as _, Netns, Nft};

const PAGE: &str = include_str!("../../../docs/ruleset.md");

/// The table as `nft` lists it, without the chain whose name is the digest.
fn listing(ns: &Netns) -> String {
    let output = ns.run(|| Command::new("nft").args(["list", "ruleset"]).output()).unwrap();
    let output = output.expect("these tests need the nft program (nftables)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines();
    let mut kept = Vec::new();
    while let Some(line) = lines.next() {
        match line.trim_start().starts_with("chain version_") {
            // Its brace and the empty line after it.
            true => lines.by_ref().take(2).for_each(drop),
            false => kept.push(line),
        }
    }
    kept.join("\n")
}

/// Both go through the kernel and back, so that the words of this machine's `nft` make no difference.
#[test]
fn the_page_shows_what_is_installed() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: not root");
        return;
    }
    let (installed, shown) = (Netns::create().unwrap(), Netns::create().unwrap());
    Nft::new(&installed, "rnet").ensure_base().unwrap();
    let (_, rest) = PAGE.split_once("```nft\n").expect("the page has a block of rules");
    let (rules, _) = rest.split_once("```").expect("the block ends");
    let file = std::env::temp_dir().join(format!("ruleset-page-{}.nft", std::process::id()));
    std::fs::write(&file, rules).unwrap();
    let loaded = shown.run(|| Command::new("nft").arg("-f").arg(&file).output()).unwrap().unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
    assert_eq!(listing(&shown), listing(&installed));
}
