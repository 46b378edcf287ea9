//! The kernel's features, and programs.

use rnet_api::{Finding, Severity};

use crate::doctor::{Facts, Need, finding};

/// Features that are not there.
pub(in crate::doctor) fn features(facts: &Facts) -> Vec<Finding> {
    let missing = facts.features.iter().filter_map(|f| Some((f, f.missing.as_ref()?)));
    missing
        .map(|(feature, why)| {
            let text = format!("the kernel has no {}, needed for {}: {why}", feature.name, feature.purpose);
            match feature.need {
                Need::Always => finding(
                    Severity::Error,
                    text,
                    format!("load its module (modprobe), or use a kernel that is built with {}", feature.name),
                ),
                Need::Sometimes => {
                    finding(Severity::Note, text, "nothing, unless you need it: another kernel or its module")
                }
            }
        })
        .collect()
}

/// Programs that help.
pub(in crate::doctor) fn programs(facts: &Facts) -> Vec<Finding> {
    let missing = facts.missing_programs.iter();
    missing
        .map(|name| {
            let text = format!("the program {name} is not installed: rules of others are shown without their words");
            finding(Severity::Note, text, format!("install the package that has {name} (nftables)"))
        })
        .collect()
}
