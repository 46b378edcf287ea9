//! `rnet doctor`.

use clap::Args;
use rnet_api::{ApiError, DoctorReport, Finding, Severity};
use rnet_diagnose::doctor::{self, Daemon};
use rnet_model::Kind;

use crate::{Context, output};

/// Find what is wrong with the network of this host, with a fix for each finding
#[derive(Debug, Args)]
#[command(after_help = "\
Looks at kernel features, settings, firewalls of others, MTU, routes, other managers of networks, netd and its files.
Changes nothing. Also works without netd: then networks and containers are not looked at.
error = something does not work, warning = something fails in some cases, note = good to know.

Exit codes: 0 nothing is wrong but for notes, 1 there are errors or warnings, others as for every command.")]
pub(crate) struct DoctorArgs {}

pub(crate) fn doctor(ctx: &Context) -> Result<u8, ApiError> {
    let report = match ctx.client().doctor() {
        Ok(report) => report,
        // Whoever may not talk to netd may not look either.
        Err(error) if error.kind == Kind::Unavailable => local(ctx, &error)?,
        Err(error) => return Err(error),
    };
    if ctx.json {
        output::json(&report)?;
    } else {
        output::text(&render(&report))?;
    }
    Ok(u8::from(report.is_wrong()))
}

fn local(ctx: &Context, error: &ApiError) -> Result<DoctorReport, ApiError> {
    let daemon = Daemon { unreachable: Some(error.chain()), start: ctx.root.start_command(), ..Daemon::default() };
    doctor::here(&ctx.root, daemon)
}

fn render(report: &DoctorReport) -> String {
    let mut out = String::new();
    for finding in &report.findings {
        let Finding { check, severity, text, fix } = finding;
        let word = match severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        out.push_str(&format!("{word}: {}: {}\n  fix: {}\n", check, output::clean(text), output::clean(fix)));
    }
    for skipped in &report.skipped {
        out.push_str(&format!("not looked at: {}\n", output::clean(skipped)));
    }
    let count = |severity| report.findings.iter().filter(|f| f.severity == severity).count();
    let (errors, warnings, notes) = (count(Severity::Error), count(Severity::Warning), count(Severity::Note));
    out.push_str(&format!("{} checks: errors {errors}, warnings {warnings}, notes {notes}\n", report.checks.len()));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_two_lines() {
        let finding = Finding {
            check: "mtu".into(),
            severity: Severity::Warning,
            text: "too large".into(),
            fix: "make it smaller".into(),
        };
        let report = DoctorReport { findings: vec![finding], checks: vec!["mtu".into()], skipped: vec!["x: y".into()] };
        assert_eq!(
            render(&report),
            "warning: mtu: too large\n  fix: make it smaller\nnot looked at: x: y\n1 checks: errors 0, warnings 1, notes 0\n"
        );
    }
}
