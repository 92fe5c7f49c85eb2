//! The pod network's nftables table: masquerading and host ports. Its rules never change; pods
//! come and go as elements of its sets.

use crate::cidr::Cidr;
use crate::lease::Lease;
use crate::nft::{
    self, Batch, ChainType, Expr, Hook, IpFamily, R0, Rule, SetSpec, Verdict, Write, datatype,
};
use crate::types::HostPort;
use std::net::{IpAddr, Ipv4Addr};

const F: IpFamily = IpFamily::V4;
/// Every pod's address beside itself: a pod that reached itself by way of a rewritten address.
const HAIRPIN: &str = "hairpin4";
const BY_IP: &str = "hostports4";
const ANY_IP: &str = "hostports-any4";

/// The whole table with the pods known, replacing what is there.
pub(crate) fn setup<'a>(
    table: &str,
    bridge: &str,
    pods: Cidr,
    cluster: Cidr,
    leases: impl Iterator<Item = &'a Lease>,
) -> Batch {
    let mut b = Batch::new(table);
    b.reset_table();
    let address_port = Some((datatype::concat(&[datatype::IPV4, datatype::PORT]), 8));
    for (name, types, key_len, data) in [
        (HAIRPIN, &[datatype::IPV4, datatype::IPV4][..], 8, None),
        (BY_IP, &[datatype::IPV4, datatype::PROTO, datatype::PORT], 12, address_port),
        (ANY_IP, &[datatype::PROTO, datatype::PORT], 8, address_port),
    ] {
        let key_type = datatype::concat(types);
        b.add_set(&SetSpec { name: name.into(), key_type, key_len, data, timeout: None });
    }
    b.add_chain("hostports");
    b.add_rule("hostports", &Rule::family(F).load_service(F).dnat_map(F, BY_IP));
    b.add_rule("hostports", &Rule::family(F).load_proto_port(R0).dnat_map(F, ANY_IP));

    b.add_base_chain("prerouting", ChainType::Nat, Hook::Prerouting, -100);
    b.add_rule("prerouting", &Rule::any().to_local().jump("hostports"));
    b.add_base_chain("output", ChainType::Nat, Hook::Output, -100);
    b.add_rule("output", &Rule::any().to_local().jump("hostports"));

    b.add_base_chain("postrouting", ChainType::Nat, Hook::Postrouting, 100);
    let own = Rule::family(F).load_saddr(F, R0).load_daddr(F, R0 + 1).in_set(HAIRPIN, false);
    b.add_rule("postrouting", &own.with(Expr::Masquerade));
    let loopback = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0));
    let from_lo = Rule::family(F).saddr_in(loopback, 8, true).oif(bridge, true);
    b.add_rule("postrouting", &from_lo.with(Expr::Masquerade));
    let outward = Rule::family(F)
        .saddr_in(pods.base.into(), pods.prefix, true)
        .daddr_in(cluster.base.into(), cluster.prefix, false)
        .oif(bridge, false);
    b.add_rule("postrouting", &outward.with(Expr::Masquerade));

    // Host ports on 127.0.0.1 need the bridge to route loopback addresses; pods must not use it.
    b.add_base_chain("input", ChainType::Filter, Hook::Input, -10);
    let guard = Rule::family(F).iif(bridge).daddr_in(loopback, 8, true).ct_unknown();
    b.add_rule("input", &guard.verdict(Verdict::Drop));

    for l in leases {
        push_pod(&mut b, l.ip, &l.host_ports, true);
    }
    b
}

fn push_pod(b: &mut Batch, ip: Ipv4Addr, ports: &[HostPort], add: bool) {
    let own = nft::ip_ip(ip.into(), ip.into());
    if add {
        b.add_keys(HAIRPIN, [own.as_slice()]);
    } else {
        b.delete_keys(HAIRPIN, [own.as_slice()]);
    }
    for p in ports {
        push_port(b, ip, p, add);
    }
}

fn push_port(b: &mut Batch, ip: Ipv4Addr, p: &HostPort, add: bool) {
    let (map, key) = match p.specific_ip() {
        Some(host @ IpAddr::V4(_)) => {
            (BY_IP, nft::ip_proto_port(host, p.protocol, p.host_port))
        }
        // Pods have no IPv6 address that a port of the host's could lead to.
        Some(IpAddr::V6(_)) => return,
        None => (ANY_IP, nft::proto_port(p.protocol, p.host_port)),
    };
    if add {
        let to = Write::Data(nft::ip_port(ip.into(), p.container_port));
        b.add_entries(map, [(key.as_slice(), &to)]);
    } else {
        b.delete_keys(map, [key.as_slice()]);
    }
}

/// Adds or removes a pod's elements.
pub(crate) fn pod(table: &str, l: &Lease, add: bool) -> Batch {
    let mut b = Batch::new(table);
    push_pod(&mut b, l.ip, &l.host_ports, add);
    b
}

/// The removal of a pod's elements one by one.
pub(crate) fn removals(table: &str, ip: Ipv4Addr, ports: &[HostPort]) -> Vec<Batch> {
    let mut own = Batch::new(table);
    push_pod(&mut own, ip, &[], false);
    let mut out = vec![own];
    for p in ports {
        let mut b = Batch::new(table);
        push_port(&mut b, ip, p, false);
        out.push(b);
    }
    out
}
