//! The text exposition format of Prometheus, version 0.0.4: families of samples.

use std::fmt::Write as _;

/// What a family is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows, from the start of netd or of what is counted.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

/// A page of metrics. Samples belong to the family that was begun last.
#[derive(Debug, Default)]
pub(super) struct Page {
    out: String,
    family: String,
}

impl Page {
    /// Begins a family; its name is not used again on the page.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        name.clone_into(&mut self.family);
    }

    /// A sample of the family: its labels and its value.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.suffixed("", labels, value);
    }

    /// A sample with a suffix to the family's name (`_bucket`, `_sum`, `_count`).
    pub(super) fn suffixed(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let _ = writeln!(self.out, "{}{suffix}{} {value}", self.family, braces(labels));
    }

    /// One family of one sample without labels.
    pub(super) fn single(&mut self, name: &str, kind: Kind, help: &str, value: impl std::fmt::Display) {
        self.family(name, kind, help);
        self.sample(&[], value);
    }

    /// Families that were rendered elsewhere.
    pub(super) fn append(&mut self, families: &str) {
        self.out.push_str(families);
    }

    pub(super) fn finish(self) -> String {
        self.out
    }
}

/// `{key="value",...}`, or nothing.
pub(super) fn braces(labels: &[(&str, &str)]) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escaped(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_labels_are_escaped() {
        let mut page = Page::default();
        page.family("rnet_x", Kind::Gauge, "a\\b\nc");
        page.sample(&[("name", "a\"b\\c\nd"), ("other", "")], 7);
        let expected = "# HELP rnet_x a\\\\b\\nc\n# TYPE rnet_x gauge\nrnet_x{name=\"a\\\"b\\\\c\\nd\",other=\"\"} 7\n";
        assert_eq!(page.finish(), expected);
    }
}
