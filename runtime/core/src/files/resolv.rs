//! `/etc/resolv.conf` (resolv.conf(5)).

use std::fmt::Write as _;
use std::net::IpAddr;

use rnet_model::DnsName;

use crate::names::{DnsSettings, SearchDomain};

/// Where netd answers inside a container.
pub const OWN_RESOLVER: &str = "127.0.0.11";

/// Of a container whose names netd answers: it alone is asked. `--dns` is for netd then. Searched are the domains asked
/// for, else the networks', else the host's. The host's options are about its own servers and are not taken.
pub fn of_netd(host: &str, domains: &[DnsName], dns: &DnsSettings) -> String {
    let mut out = format!("nameserver {OWN_RESOLVER}\n");
    let search = match (dns.search.is_empty(), domains.is_empty()) {
        (false, _) => asked_search(dns),
        (true, false) => domains.iter().map(ToString::to_string).collect(),
        (true, true) => last_search(host),
    };
    push_line(&mut out, "search", &search);
    let mut options: Vec<String> = dns.options.iter().map(ToString::to_string).collect();
    if !options.iter().any(|o| o.starts_with("ndots:")) {
        // A name without a dot is asked for as it is first: a container's name has none.
        options.insert(0, "ndots:0".to_owned());
    }
    push_line(&mut out, "options", &options);
    out
}

/// Of a container in a network namespace of its own, without netd's names: the host's without name servers that only
/// the host itself reaches. `direct` is what the host's stub resolver forwards to
/// (`/run/systemd/resolve/resolv.conf`, systemd-resolved.service(8)), used when nothing else is left.
pub fn reachable(host: &str, direct: Option<&str>, dns: &DnsSettings) -> String {
    let servers = |text: &str| text.lines().any(|l| server(l).is_some_and(|s| !own(s)));
    let source = match direct {
        Some(direct) if !servers(host) && servers(direct) => direct,
        _ => host,
    };
    let kept: Vec<&str> = source.lines().filter(|l| !server(l).is_some_and(own)).collect();
    replaced(&kept, dns)
}

/// Of a container in the host's namespace: the host's.
pub fn of_the_host(host: &str, dns: &DnsSettings) -> String {
    if dns.is_empty() {
        return host.to_owned();
    }
    replaced(&host.lines().collect::<Vec<_>>(), dns)
}

/// What is asked for stands in place of what the host says.
fn replaced(lines: &[&str], dns: &DnsSettings) -> String {
    let mut out = String::new();
    for line in lines {
        let goes = match keyword(line) {
            "nameserver" => !dns.servers.is_empty(),
            "search" | "domain" => !dns.search.is_empty(),
            "options" => !dns.options.is_empty(),
            _ => false,
        };
        if !goes {
            out.push_str(line);
            out.push('\n');
        }
    }
    for server in &dns.servers {
        let _ = writeln!(out, "nameserver {server}");
    }
    push_line(&mut out, "search", &asked_search(dns));
    push_line(&mut out, "options", &dns.options.iter().map(ToString::to_string).collect::<Vec<_>>());
    out
}

fn asked_search(dns: &DnsSettings) -> Vec<String> {
    let domain = |d: &SearchDomain| match d {
        SearchDomain::None => None,
        SearchDomain::Domain(name) => Some(name.to_string()),
    };
    dns.search.iter().filter_map(domain).collect()
}

/// The last one counts.
fn last_search(text: &str) -> Vec<String> {
    let last = text.lines().rfind(|l| matches!(keyword(l), "search" | "domain"));
    last.into_iter().flat_map(|l| l.split_ascii_whitespace().skip(1)).map(str::to_owned).collect()
}

fn push_line(out: &mut String, keyword: &str, words: &[String]) {
    if !words.is_empty() {
        let _ = writeln!(out, "{keyword} {}", words.join(" "));
    }
}

fn keyword(line: &str) -> &str {
    line.split_ascii_whitespace().next().unwrap_or_default()
}

/// The address in a `nameserver` line.
fn server(line: &str) -> Option<&str> {
    let mut words = line.split_ascii_whitespace();
    (words.next() == Some("nameserver")).then(|| words.next()).flatten()
}

/// Whether an address means the host itself, or a link that the container is not on.
fn own(server: &str) -> bool {
    if server.contains('%') {
        return true;
    }
    match server.parse::<IpAddr>() {
        Ok(address) => address.is_loopback() || address.is_unspecified(),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(servers: &[&str], search: &[&str], options: &[&str]) -> DnsSettings {
        DnsSettings {
            servers: servers.iter().map(|s| s.parse().unwrap()).collect(),
            search: search.iter().map(|s| s.parse().unwrap()).collect(),
            options: options.iter().map(|s| s.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn resolvers_of_the_host_alone_are_left_out() {
        let none = DnsSettings::default();
        let host = "# made by hand\nsearch example.org\nnameserver 127.0.0.53\nnameserver 192.0.2.1\noptions edns0\n";
        let kept = "# made by hand\nsearch example.org\nnameserver 192.0.2.1\noptions edns0\n";
        assert_eq!(reachable(host, Some("nameserver 192.0.2.9\n"), &none), kept);
        let stub = "nameserver 127.0.0.53\nsearch example.org\n";
        assert_eq!(reachable(stub, Some("nameserver 192.0.2.9\n"), &none), "nameserver 192.0.2.9\n");
        assert_eq!(reachable(stub, Some("nameserver ::1\n"), &none), "search example.org\n");
        assert_eq!(reachable(stub, None, &none), "search example.org\n");
        assert_eq!(reachable("nameserver fe80::1%eth0\n", None, &none), "");
        assert_eq!(reachable("", None, &none), "");
    }

    #[test]
    fn what_is_asked_for_replaces_the_hosts() {
        let host = "search example.org\nnameserver 192.0.2.1\noptions edns0\n";
        let dns = asked(&["192.0.2.7", "fd00::7"], &["a.example", "b.example"], &["timeout:1"]);
        let text = "nameserver 192.0.2.7\nnameserver fd00::7\nsearch a.example b.example\noptions timeout:1\n";
        assert_eq!(reachable(host, None, &dns), text);
        assert_eq!(of_the_host(host, &dns), text);
        let one = asked(&["192.0.2.7"], &[], &[]);
        assert_eq!(of_the_host(host, &one), "search example.org\noptions edns0\nnameserver 192.0.2.7\n");
        assert_eq!(of_the_host(host, &DnsSettings::default()), host);
        assert_eq!(of_the_host("nameserver 127.0.0.53\n", &asked(&[], &["."], &[])), "nameserver 127.0.0.53\n");
    }

    #[test]
    fn netd_alone_is_asked() {
        let host = "domain old.example\nsearch example.org b.example\nnameserver 192.0.2.1\noptions edns0 ndots:5\n";
        let domains = ["blue.test".parse().unwrap()];
        let of = |domains: &[DnsName], dns| of_netd(host, domains, &dns);
        assert_eq!(
            of(&[], asked(&["192.0.2.7"], &[], &[])),
            "nameserver 127.0.0.11\nsearch example.org b.example\noptions ndots:0\n"
        );
        assert_eq!(of(&domains, DnsSettings::default()), "nameserver 127.0.0.11\nsearch blue.test\noptions ndots:0\n");
        assert_eq!(
            of(&domains, asked(&[], &["x.test"], &["ndots:2", "use-vc"])),
            "nameserver 127.0.0.11\nsearch x.test\noptions ndots:2 use-vc\n"
        );
        assert_eq!(of(&domains, asked(&[], &["."], &[])), "nameserver 127.0.0.11\noptions ndots:0\n");
    }
}
