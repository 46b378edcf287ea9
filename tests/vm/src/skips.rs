//! What either kernel skipped, from nextest's reports of both tiers.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;

/// A test's program and name, as nextest calls them.
type Name = (String, String);

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    /// And why.
    Skipped(String),
}

/// Prints the filter of this tier. A skip in tier 2 has to be a pass here.
pub(crate) fn filter(target: &Path) -> anyhow::Result<u8> {
    println!("{}", filter_of(&read(target, "default")?));
    Ok(0)
}

/// Prints what was skipped on both kernels, and what on the second alone.
pub(crate) fn report(target: &Path) -> anyhow::Result<u8> {
    let (first, second) = (read(target, "default")?, read(target, "vm").unwrap_or_default());
    println!("{}", report_of(&first, &second));
    Ok(0)
}

fn read(target: &Path, profile: &str) -> anyhow::Result<BTreeMap<Name, Verdict>> {
    let path = target.join("nextest").join(profile).join("junit.xml");
    let report = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(verdicts(&report))
}

fn filter_of(first: &BTreeMap<Name, Verdict>) -> String {
    let skipped = first.iter().filter(|(_, verdict)| matches!(verdict, Verdict::Skipped(_)));
    skipped.fold("default()".to_owned(), |filter, ((program, test), _)| {
        format!("{filter} | (binary_id(={program}) & test(={test}))")
    })
}

fn report_of(first: &BTreeMap<Name, Verdict>, second: &BTreeMap<Name, Verdict>) -> String {
    let mut lines = Vec::new();
    let mut made_up_for = 0;
    for ((program, test), verdict) in first {
        let Verdict::Skipped(why) = verdict else { continue };
        match second.get(&(program.clone(), test.clone())) {
            Some(Verdict::Passed) => made_up_for += 1,
            Some(Verdict::Skipped(then)) if then == why => {
                lines.push(format!("skipped on both kernels: {program} {test}: {why}"));
            }
            Some(Verdict::Skipped(then)) => {
                lines.push(format!("skipped on both kernels: {program} {test}: {why}; then: {then}"));
            }
            Some(Verdict::Failed) => lines.push(format!("skipped here, failed on the second kernel: {program} {test}")),
            None => lines.push(format!("skipped here, not run on the second kernel: {program} {test}: {why}")),
        }
    }
    for (name, verdict) in second {
        if let (Verdict::Skipped(why), Some(Verdict::Passed) | None) = (verdict, first.get(name)) {
            lines.push(format!("skipped on the second kernel alone: {} {}: {why}", name.0, name.1));
        }
    }
    if made_up_for > 0 {
        lines.push(format!("skipped here, passed on the second kernel: {made_up_for}"));
    }
    if lines.is_empty() {
        lines.push("skipped on both kernels: nothing".to_owned());
    }
    lines.join("\n")
}

/// nextest writes a report with one `testcase` element for each test, and its output as text inside.
fn verdicts(report: &str) -> BTreeMap<Name, Verdict> {
    let cases = report.split("<testcase ").skip(1);
    let case = |text: &str| {
        let (head, body) = text.split_once('>')?;
        let name = (attribute(head, "classname")?, attribute(head, "name")?);
        let skipped = body.split_once("skipped: ").map(|(_, why)| why.split(['\n', '<']).next().unwrap_or_default());
        let verdict = match skipped {
            _ if body.contains("<failure") || body.contains("<error") => Verdict::Failed,
            Some(why) => Verdict::Skipped(plain(why)),
            None => Verdict::Passed,
        };
        Some((name, verdict))
    };
    cases.filter_map(case).collect()
}

fn attribute(head: &str, name: &str) -> Option<String> {
    let (_, value) =
        format!(" {head}").split_once(&format!(" {name}=\"")).map(|(a, b)| (a.to_owned(), b.to_owned()))?;
    value.split('"').next().map(plain)
}

fn plain(text: &str) -> String {
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'");
    text.replace("&amp;", "&").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(cases: &[(&str, &str)]) -> BTreeMap<Name, Verdict> {
        let cases = cases.iter().map(|(test, body)| {
            format!(
                "<testcase name=\"{test}\" classname=\"p::t\" timestamp=\"x\" time=\"0.1\">\n{body}\n\
                 <system-err></system-err></testcase>\n"
            )
        });
        verdicts(&format!("<?xml version=\"1.0\"?><testsuites name=\"nextest-run\">{}", cases.collect::<String>()))
    }

    #[test]
    fn a_skip_here_is_run_and_counted_there() {
        let first = report(&[
            ("vlans", "<system-out>running 1 test\nskipped: needs &lt;vlans&gt; &amp; &quot;more&quot;\n</system-out>"),
            ("plain", "<system-out>ok</system-out>"),
            ("docker", "<system-out>skipped: needs dockerd\n</system-out>"),
            ("late", "<system-out>skipped: needs x\n</system-out>"),
        ]);
        let why = first.get(&("p::t".to_owned(), "vlans".to_owned())).unwrap();
        assert_eq!(*why, Verdict::Skipped("needs <vlans> & \"more\"".to_owned()));
        let expected = "default() | (binary_id(=p::t) & test(=docker)) | (binary_id(=p::t) & test(=late)) | \
                        (binary_id(=p::t) & test(=vlans))";
        assert_eq!(filter_of(&first), expected);
        let second = report(&[
            ("vlans", "<system-out>ok</system-out>"),
            ("docker", "<system-out>skipped: needs dockerd\n</system-out>"),
            ("plain", "<system-out>skipped: needs a disk\n</system-out>"),
        ]);
        let said = report_of(&first, &second);
        let expected = "skipped on both kernels: p::t docker: needs dockerd\n\
                        skipped here, not run on the second kernel: p::t late: needs x\n\
                        skipped on the second kernel alone: p::t plain: needs a disk\n\
                        skipped here, passed on the second kernel: 1";
        assert_eq!(said, expected);
    }

    #[test]
    fn a_failure_is_no_skip() {
        let failed = "<failure message=\"m\" type=\"test failure\">t</failure><system-out>skipped: half\n</system-out>";
        let second = report(&[("vlans", failed)]);
        let first = report(&[("vlans", "<system-out>skipped: needs vlans\n</system-out>")]);
        assert_eq!(report_of(&first, &second), "skipped here, failed on the second kernel: p::t vlans");
        let none = report(&[("vlans", "")]);
        assert_eq!(report_of(&none, &none), "skipped on both kernels: nothing");
    }
}
