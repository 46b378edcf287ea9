//! `/etc/hosts`. First what does not change while the container runs, then, after a line that says so, addresses that
//! are kept up to date: those of the container, and those of the containers it is linked to. What the container itself
//! adds stays until the next start, wherever it stands.

use std::fmt::Write as _;
use std::net::IpAddr;

/// From here on lines are kept up to date.
const MARK: &str = "# Addresses below are kept up to date by rnet.";

const WELL_KNOWN: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
                          ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

/// The well-known names and extra ones, without any address that changes.
pub fn new(extra: &[(IpAddr, &str)]) -> String {
    format!("{WELL_KNOWN}{}{MARK}\n", lines(extra))
}

/// The host's own file with extra names before it, so that they are what is found.
pub fn of_the_host(host: &str, extra: &[(IpAddr, &str)]) -> String {
    format!("{}{host}", lines(extra))
}

fn lines(extra: &[(IpAddr, &str)]) -> String {
    extra.iter().fold(String::new(), |mut out, (address, name)| {
        let _ = writeln!(out, "{address}\t{name}");
        out
    })
}

/// The names of a host, as they stand in its line: the whole one, then its first label when that is another.
pub fn own_names(hostname: &str, domain: Option<&str>) -> String {
    let whole = match domain {
        Some(domain) => format!("{hostname}.{domain}"),
        None => hostname.to_owned(),
    };
    match whole.split_once('.') {
        Some((short, _)) => format!("{whole} {short}"),
        None => whole,
    }
}

/// The names of a linked container: alias, hostname and name, each once.
pub fn link_names(alias: &str, hostname: &str, name: &str) -> String {
    let mut names = vec![alias];
    for more in [hostname, name] {
        if !names.contains(&more) {
            names.push(more);
        }
    }
    names.join(" ")
}

/// Gives these names these addresses: their lines are replaced where they stand, or added at the end. Other lines stay.
#[must_use]
pub fn follow(text: &str, names: &str, addresses: &[IpAddr]) -> String {
    let mut wanted = lines(&addresses.iter().map(|a| (*a, names)).collect::<Vec<_>>());
    let mut out = String::with_capacity(text.len() + wanted.len());
    // Without the mark, which only the container can have removed, every line is one of those below it.
    let mut below = !text.lines().any(|line| line == MARK);
    for line in text.lines() {
        if below && is_of(line, names) {
            out.push_str(&std::mem::take(&mut wanted));
            continue;
        }
        below = below || line == MARK;
        out.push_str(line);
        out.push('\n');
    }
    out.push_str(&wanted);
    out
}

/// Whether a line gives an address to exactly these names.
fn is_of(line: &str, names: &str) -> bool {
    let mut words = line.split_ascii_whitespace();
    words.next().is_some_and(|first| first.parse::<IpAddr>().is_ok()) && words.eq(names.split(' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_file() {
        let text = new(&[(ip("192.0.2.1"), "db"), (ip("fd00::9"), "db")]);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        let names = own_names("web.example.org", None);
        let text = follow(&text, &names, &[ip("10.0.0.2"), ip("fd00::2")]);
        let end = "ip6-allrouters\n192.0.2.1\tdb\nfd00::9\tdb\n# Addresses below are kept up to date by rnet.\n\
                   10.0.0.2\tweb.example.org web\nfd00::2\tweb.example.org web\n";
        assert!(text.ends_with(end), "{text}");
        assert_eq!(follow(&text, &names, &[ip("10.0.0.2"), ip("fd00::2")]), text);
    }

    #[test]
    fn names() {
        assert_eq!(own_names("web", None), "web");
        assert_eq!(own_names("web", Some("example.org")), "web.example.org web");
        assert_eq!(link_names("db", "c0ffee", "c0ffee"), "db c0ffee");
        assert_eq!(link_names("db", "db", "db"), "db");
        assert_eq!(link_names("store", "front", "db"), "store front db");
    }

    #[test]
    fn addresses_are_followed_where_they_stand() {
        let names = "store front db";
        let text = follow(&new(&[]), names, &[ip("10.0.0.3")]);
        let text = format!("{text}10.9.9.9 mine\n");
        let moved = follow(&text, names, &[ip("10.0.0.4"), ip("fd00::4")]);
        assert!(moved.ends_with("10.0.0.4\tstore front db\nfd00::4\tstore front db\n10.9.9.9 mine\n"), "{moved}");
        let gone = follow(&moved, names, &[]);
        assert!(gone.ends_with("rnet.\n10.9.9.9 mine\n"), "{gone}");
    }

    #[test]
    fn an_extra_name_is_not_taken_for_the_own() {
        let text = new(&[(ip("192.0.2.1"), "web")]);
        let text = follow(&text, "web", &[ip("10.0.0.2")]);
        let text = follow(&text, "web", &[ip("10.0.0.3")]);
        assert!(text.contains("192.0.2.1\tweb\n") && text.ends_with("10.0.0.3\tweb\n"), "{text}");
        assert!(!text.contains("10.0.0.2"));
    }

    #[test]
    fn a_file_that_was_rewritten_inside() {
        assert_eq!(follow("10.0.0.2 web\nother\n", "web", &[ip("10.0.0.3")]), "10.0.0.3\tweb\nother\n");
        assert_eq!(follow("", "web", &[ip("10.0.0.3")]), "10.0.0.3\tweb\n");
    }

    #[test]
    fn the_hosts_own() {
        assert_eq!(of_the_host("::1 x\n", &[(ip("192.0.2.1"), "db")]), "192.0.2.1\tdb\n::1 x\n");
    }
}
