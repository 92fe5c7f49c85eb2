//! Names and resolvers: hostname, `/etc/hosts`, DNS configuration of a pod.
use std::{net::IpAddr, path::Path};

use k8s_openapi::api::core::v1::Pod;
use knarr_cri_api::v1::DnsConfig;

use crate::spec;

/// First bytes of an `/etc/hosts` that the kubelet writes.
pub const HOSTS_HEADER: &str = "# Kubernetes-managed hosts file.\n";
/// Longest hostname the kernel takes.
const HOSTNAME_MAX: usize = 63;

/// Hostname and domain of a pod: `spec.hostname` or its name; `sub.ns.svc.domain` or nothing.
pub fn hostname(pod: &Pod, cluster_domain: &str) -> (String, Option<String>) {
    let s = spec::spec(pod);
    if let Some(over) = s.hostname_override.as_deref().filter(|h| !h.is_empty()) {
        return (over.to_owned(), None);
    }
    let host = s
        .hostname
        .clone()
        .filter(|h| !h.is_empty())
        .unwrap_or_else(|| {
            let mut h = spec::name(pod).to_owned();
            h.truncate(HOSTNAME_MAX);
            h.trim_end_matches(['-', '.']).to_owned()
        });
    let domain = s
        .subdomain
        .as_deref()
        .filter(|d| !d.is_empty())
        .map(|d| format!("{d}.{}.svc.{cluster_domain}", spec::namespace(pod)));
    (host, domain)
}

/// What the sandbox's hostname is to be; empty for the node's own.
pub fn sandbox_hostname(pod: &Pod, cluster_domain: &str, node: &str) -> String {
    if spec::host_network(pod) && spec::spec(pod).hostname_override.is_none() {
        return node.to_owned();
    }
    match hostname(pod, cluster_domain) {
        (h, Some(d)) if spec::spec(pod).set_hostname_as_fqdn == Some(true) => format!("{h}.{d}"),
        (h, _) => h,
    }
}

/// The text of a pod's `/etc/hosts`.
pub fn hosts(pod: &Pod, ips: &[String], cluster_domain: &str) -> String {
    let mut out = String::from(HOSTS_HEADER);
    out.push_str(concat!(
        "127.0.0.1\tlocalhost\n",
        "::1\tlocalhost ip6-localhost ip6-loopback\n",
        "fe00::0\tip6-localnet\n",
        "fe00::0\tip6-mcastprefix\n",
        "fe00::1\tip6-allnodes\n",
        "fe00::2\tip6-allrouters\n",
    ));
    let (host, domain) = hostname(pod, cluster_domain);
    for ip in ips {
        match &domain {
            Some(d) => out.push_str(&format!("{ip}\t{host}.{d}\t{host}\n")),
            None => out.push_str(&format!("{ip}\t{host}\n")),
        }
    }
    out.push_str(&aliases(pod));
    out
}

/// The node's own file for a pod on the node's network, with its aliases.
pub fn node_hosts(pod: &Pod, node_file: &str) -> String {
    format!(
        "# Kubernetes-managed hosts file (host network).\n{node_file}{}",
        aliases(pod)
    )
}

fn aliases(pod: &Pod) -> String {
    let list = spec::spec(pod).host_aliases.as_deref().unwrap_or_default();
    if list.is_empty() {
        return String::new();
    }
    let mut out = String::from("\n# Entries added by HostAliases.\n");
    for a in list {
        let names = a.hostnames.as_deref().unwrap_or_default().join("\t");
        out.push_str(&format!("{}\t{names}\n", a.ip));
    }
    out
}

/// Reads a resolver file.
pub fn parse_resolv(text: &str) -> DnsConfig {
    let mut dns = DnsConfig::default();
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with(['#', ';']) {
            continue;
        }
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => dns.servers.extend(words.next().map(str::to_owned)),
            Some("search") => {
                dns.searches = words.map(|w| w.trim_end_matches('.').to_owned()).collect();
            }
            Some("options") => dns.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    dns
}

/// The resolver configuration of a pod by its DNS policy.
pub fn dns(pod: &Pod, cluster_dns: &[IpAddr], cluster_domain: &str, node: &DnsConfig) -> DnsConfig {
    let s = spec::spec(pod);
    let policy = s.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirst" => !spec::host_network(pod),
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut out = if policy == "None" {
        DnsConfig::default()
    } else if cluster && !cluster_dns.is_empty() {
        let mut searches = vec![
            format!("{}.svc.{cluster_domain}", spec::namespace(pod)),
            format!("svc.{cluster_domain}"),
            cluster_domain.to_owned(),
        ];
        for s in &node.searches {
            if !searches.contains(s) {
                searches.push(s.clone());
            }
        }
        DnsConfig {
            servers: cluster_dns.iter().map(ToString::to_string).collect(),
            searches,
            options: vec!["ndots:5".into()],
        }
    } else {
        node.clone()
    };
    if let Some(extra) = &s.dns_config {
        fn add(list: &mut Vec<String>, more: Option<&Vec<String>>) {
            for m in more.into_iter().flatten() {
                if !list.contains(m) {
                    list.push(m.clone());
                }
            }
        }
        add(&mut out.servers, extra.nameservers.as_ref());
        add(&mut out.searches, extra.searches.as_ref());
        for o in extra.options.iter().flatten() {
            let name = o.name.clone().unwrap_or_default();
            out.options
                .retain(|have| have.split(':').next() != Some(name.as_str()));
            out.options.push(match &o.value {
                Some(v) => format!("{name}:{v}"),
                None => name,
            });
        }
    }
    out
}

/// The node's resolver configuration; empty when it cannot be read.
pub fn node_dns(path: &Path) -> DnsConfig {
    std::fs::read_to_string(path)
        .map(|t| parse_resolv(&t))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec
        }))
        .expect("a pod")
    }

    #[test]
    fn hosts_start_with_the_header_and_end_with_aliases() {
        let p = pod(serde_json::json!({"containers": [], "subdomain": "sub", "hostAliases":
            [{"ip": "123.45.67.89", "hostnames": ["foo", "bar"]}]}));
        let text = hosts(&p, &["10.0.0.1".into()], "cluster.local");
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n"));
        assert!(text.contains("10.0.0.1\tp.sub.ns.svc.cluster.local\tp\n"));
        assert!(text.ends_with("123.45.67.89\tfoo\tbar\n"));
        assert!(!node_hosts(&p, "x").starts_with("# Kubernetes-managed hosts file.\n"));
    }

    #[test]
    fn dns_policies() {
        let node = parse_resolv("nameserver 1.1.1.1\nsearch corp.example\n");
        let dns_ip: Vec<IpAddr> = vec![IpAddr::from([10, 96, 0, 10])];
        let first = dns(&pod(serde_json::json!({"containers": []})), &dns_ip, "cluster.local", &node);
        assert_eq!(first.servers, ["10.96.0.10"]);
        assert_eq!(
            first.searches,
            ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"]
        );
        assert_eq!(first.options, ["ndots:5"]);
        let none = dns(
            &pod(serde_json::json!({"containers": [], "dnsPolicy": "None", "dnsConfig":
                {"nameservers": ["1.2.3.4"], "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}]}})),
            &dns_ip, "cluster.local", &node,
        );
        assert_eq!((none.servers, none.searches, none.options),
            (vec!["1.2.3.4".to_owned()], vec!["a.b".to_owned()], vec!["ndots:2".to_owned()]));
        let host = dns(&pod(serde_json::json!({"containers": [], "hostNetwork": true})),
            &dns_ip, "cluster.local", &node);
        assert_eq!(host.servers, ["1.1.1.1"]);
    }
}
