//! The cluster's zone: what a name stands for.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV},
};
use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{Endpoint, EndpointSlice},
};
use knarr_runner::Cache;

#[cfg(test)]
mod tests;

/// How long clients may keep an answer, in seconds.
const TTL: u32 = 5;
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What the zone knows of a question.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) records: Vec<Record>,
    /// Addresses of the targets of SRV records.
    pub(crate) additional: Vec<Record>,
    /// A name outside the zone that a CNAME points to.
    pub(crate) chase: Option<Name>,
}

/// The result of a look-up.
#[derive(Debug, PartialEq)]
pub(crate) enum Lookup {
    /// The name is not of this zone.
    Foreign,
    /// The name does not exist.
    Missing,
    /// The name exists; the answer is empty if it has no such records.
    Found(Answer),
}

/// Where the zone's facts come from.
pub(crate) trait Facts: Send + Sync + 'static {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>>;
    fn services(&self, namespace: Option<&str>) -> Vec<Arc<Service>>;
    fn slices(&self, namespace: Option<&str>) -> Vec<Arc<EndpointSlice>>;
}

impl Facts for (Arc<Cache<Service>>, Arc<Cache<EndpointSlice>>) {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.0.get(namespace, name)
    }
    fn services(&self, namespace: Option<&str>) -> Vec<Arc<Service>> {
        namespace.map_or_else(|| self.0.list(), |ns| self.0.in_namespace(ns))
    }
    fn slices(&self, namespace: Option<&str>) -> Vec<Arc<EndpointSlice>> {
        namespace.map_or_else(|| self.1.list(), |ns| self.1.in_namespace(ns))
    }
}

pub(crate) struct Zone {
    origin: Name,
    facts: Box<dyn Facts>,
}

/// One endpoint of a service with the ports of its slice.
struct Target {
    host: String,
    address: IpAddr,
    ports: Vec<(String, String, u16)>,
}

impl Zone {
    pub(crate) fn new(
        domain: &str,
        services: Arc<Cache<Service>>,
        slices: Arc<Cache<EndpointSlice>>,
    ) -> Option<Self> {
        Self::with(domain, Box::new((services, slices)))
    }

    fn with(domain: &str, facts: Box<dyn Facts>) -> Option<Self> {
        let mut origin = Name::from_ascii(domain).ok()?.to_lowercase();
        origin.set_fqdn(true);
        (!origin.is_root()).then_some(Zone { origin, facts })
    }

    /// The zone's start-of-authority record, for negative answers.
    pub(crate) fn soa(&self) -> Record {
        let below = |label: &str| {
            Name::from_ascii(label)
                .and_then(|n| n.append_domain(&self.origin))
                .unwrap_or_else(|_| self.origin.clone())
        };
        let soa = SOA::new(below("ns.dns"), below("hostmaster"), 1, 7200, 1800, 86400, TTL);
        Record::from_rdata(self.origin.clone(), TTL, RData::SOA(soa))
    }

    pub(crate) fn lookup(&self, name: &Name, kind: RecordType) -> Lookup {
        let lower = name.to_lowercase();
        if let Some(address) = reverse(&lower) {
            return self.pointer(name, address, kind);
        }
        if !self.origin.zone_of(&lower) {
            return Lookup::Foreign;
        }
        let depth = usize::from(lower.num_labels() - self.origin.num_labels());
        let labels: Vec<String> = lower
            .iter()
            .take(depth)
            .map(|label| String::from_utf8_lossy(label).into_owned())
            .collect();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        match labels.as_slice() {
            [] => self.apex(kind),
            ["svc" | "pod"] => Lookup::Found(Answer::default()),
            [namespace, "svc" | "pod"] => {
                if self.facts.services(Some(namespace)).is_empty() {
                    Lookup::Missing
                } else {
                    Lookup::Found(Answer::default())
                }
            }
            [service, namespace, "svc"] => self.service(name, service, namespace, kind),
            [port, protocol, service, namespace, "svc"]
                if port.starts_with('_') && protocol.starts_with('_') =>
            {
                self.port(name, &port[1..], &protocol[1..], service, namespace, kind)
            }
            [host, service, namespace, "svc"] => {
                self.endpoint(name, host, service, namespace, kind)
            }
            [address, _, "pod"] => match undashed(address) {
                Some(address) => found(name, &[address], kind),
                None => Lookup::Missing,
            },
            _ => Lookup::Missing,
        }
    }

    fn apex(&self, kind: RecordType) -> Lookup {
        let records = match kind {
            RecordType::SOA => vec![self.soa()],
            RecordType::NS => {
                let host = Name::from_ascii("ns.dns").and_then(|n| n.append_domain(&self.origin));
                host.map(|host| {
                    Record::from_rdata(self.origin.clone(), TTL, RData::NS(NS(host)))
                })
                .into_iter()
                .collect()
            }
            _ => Vec::new(),
        };
        Lookup::Found(Answer { records, ..Answer::default() })
    }

    fn service(&self, name: &Name, service: &str, namespace: &str, kind: RecordType) -> Lookup {
        let Some(object) = self.facts.service(namespace, service) else { return Lookup::Missing };
        if let Some(target) = external(&object) {
            let Ok(target) = Name::from_ascii(target) else { return Lookup::Missing };
            return self.alias(name, target, kind);
        }
        if kind == RecordType::SRV {
            return self.port(name, "", "", service, namespace, kind);
        }
        let addresses = match cluster_addresses(&object) {
            Some(addresses) => addresses,
            None => {
                let targets = self.targets(service, namespace);
                if targets.is_empty() {
                    // CoreDNS, too, says of a headless service without endpoints that it is not.
                    return Lookup::Missing;
                }
                targets.iter().map(|t| t.address).collect()
            }
        };
        found(name, &addresses, kind)
    }

    /// A CNAME, and what it points to as far as this zone knows.
    fn alias(&self, name: &Name, mut target: Name, kind: RecordType) -> Lookup {
        target.set_fqdn(true);
        let cname = RData::CNAME(CNAME(target.clone()));
        let mut answer = Answer {
            records: vec![Record::from_rdata(name.clone(), TTL, cname)],
            ..Answer::default()
        };
        if kind == RecordType::CNAME {
            return Lookup::Found(answer);
        }
        if self.origin.zone_of(&target.to_lowercase()) {
            // One step only: a chain of ExternalNames could be a circle.
            if let Some((service, namespace)) = self.plain_service(&target)
                && let Lookup::Found(more) = self.service(&target, &service, &namespace, kind)
            {
                answer.records.extend(more.records);
            }
        } else {
            answer.chase = Some(target);
        }
        Lookup::Found(answer)
    }

    /// The service that a name stands for, if it is one with addresses of its own.
    fn plain_service(&self, name: &Name) -> Option<(String, String)> {
        let lower = name.to_lowercase();
        let mut labels = lower.iter().map(|l| String::from_utf8_lossy(l).into_owned());
        let (service, namespace) = (labels.next()?, labels.next()?);
        let object = self.facts.service(&namespace, &service)?;
        external(&object).is_none().then_some((service, namespace))
    }

    fn port(
        &self,
        name: &Name,
        port: &str,
        protocol: &str,
        service: &str,
        namespace: &str,
        kind: RecordType,
    ) -> Lookup {
        let Some(object) = self.facts.service(namespace, service) else { return Lookup::Missing };
        let any = port.is_empty();
        let matches = |p: &str, proto: &str| {
            any || (p == port && proto.eq_ignore_ascii_case(protocol))
        };
        let mut found_port = false;
        let mut answer = Answer::default();
        let base = self.service_name(service, namespace);
        let mut add = |target: Name, number: u16, addresses: &[IpAddr]| {
            found_port = true;
            let srv = RData::SRV(SRV::new(0, 100, number, target.clone()));
            answer.records.push(Record::from_rdata(name.clone(), TTL, srv));
            for address in addresses {
                let record = address_record(&target, *address);
                if !answer.additional.contains(&record) {
                    answer.additional.push(record);
                }
            }
        };
        if let Some(addresses) = cluster_addresses(&object) {
            let ports = object.spec.as_ref().and_then(|s| s.ports.as_ref());
            for p in ports.into_iter().flatten() {
                let proto = p.protocol.as_deref().unwrap_or("TCP");
                if matches(p.name.as_deref().unwrap_or(""), proto)
                    && let Ok(number) = u16::try_from(p.port)
                {
                    add(base.clone(), number, &addresses);
                }
            }
        } else {
            for target in self.targets(service, namespace) {
                for (p, proto, number) in &target.ports {
                    if matches(p, proto)
                        && let Ok(host) = Name::from_ascii(&target.host)
                        && let Ok(host) = host.append_domain(&base)
                    {
                        add(host, *number, &[target.address]);
                    }
                }
            }
        }
        if !found_port && !any {
            return Lookup::Missing;
        }
        if kind == RecordType::SRV || kind == RecordType::ANY {
            Lookup::Found(answer)
        } else {
            Lookup::Found(Answer::default())
        }
    }

    fn endpoint(
        &self,
        name: &Name,
        host: &str,
        service: &str,
        namespace: &str,
        kind: RecordType,
    ) -> Lookup {
        let addresses: Vec<_> = self
            .targets(service, namespace)
            .into_iter()
            .filter(|t| t.host == host)
            .map(|t| t.address)
            .collect();
        if addresses.is_empty() { Lookup::Missing } else { found(name, &addresses, kind) }
    }

    fn service_name(&self, service: &str, namespace: &str) -> Name {
        Name::from_ascii(format!("{service}.{namespace}.svc"))
            .and_then(|n| n.append_domain(&self.origin))
            .unwrap_or_else(|_| self.origin.clone())
    }

    /// The endpoints of a service that take traffic.
    fn targets(&self, service: &str, namespace: &str) -> Vec<Target> {
        let mut targets: Vec<Target> = Vec::new();
        for slice in self.facts.slices(Some(namespace)) {
            if service_of(&slice) != Some(service) {
                continue;
            }
            let ports: Vec<_> = slice
                .ports
                .iter()
                .flatten()
                .filter_map(|p| {
                    Some((
                        p.name.clone().unwrap_or_default(),
                        p.protocol.clone().unwrap_or_else(|| "TCP".into()),
                        u16::try_from(p.port?).ok()?,
                    ))
                })
                .collect();
            for endpoint in slice.endpoints.iter().flatten().filter(|e| ready(e)) {
                for address in endpoint.addresses.iter().filter_map(|a| a.parse().ok()) {
                    let host = host_of(endpoint, address);
                    match targets.iter_mut().find(|t| t.address == address && t.host == host) {
                        Some(known) => known.ports.extend(ports.iter().cloned()),
                        None => targets.push(Target { host, address, ports: ports.clone() }),
                    }
                }
            }
        }
        targets
    }

    fn pointer(&self, name: &Name, address: IpAddr, kind: RecordType) -> Lookup {
        let mut names = Vec::new();
        for service in self.facts.services(None) {
            if cluster_addresses(&service).is_some_and(|all| all.contains(&address)) {
                let (service, namespace) = (meta(&service.metadata.name), meta(&service.metadata.namespace));
                names.push(self.service_name(service, namespace));
            }
        }
        if names.is_empty() {
            for slice in self.facts.slices(None) {
                let Some(service) = service_of(&slice) else { continue };
                let namespace = meta(&slice.metadata.namespace);
                let text = address.to_string();
                for endpoint in slice.endpoints.iter().flatten() {
                    // Only an endpoint with a name of its own has one to point to.
                    if let Some(host) = &endpoint.hostname
                        && endpoint.addresses.contains(&text)
                        && let Ok(host) = Name::from_ascii(host)
                        && let Ok(full) = host.append_domain(&self.service_name(service, namespace))
                        && !names.contains(&full)
                    {
                        names.push(full);
                    }
                }
            }
        }
        if names.is_empty() {
            return Lookup::Foreign;
        }
        let records = match kind {
            RecordType::PTR | RecordType::ANY => names
                .into_iter()
                .map(|target| Record::from_rdata(name.clone(), TTL, RData::PTR(PTR(target))))
                .collect(),
            _ => Vec::new(),
        };
        Lookup::Found(Answer { records, ..Answer::default() })
    }
}

fn meta(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

fn service_of(slice: &EndpointSlice) -> Option<&str> {
    slice.metadata.labels.as_ref()?.get(SERVICE_NAME).map(String::as_str)
}

fn ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|c| c.ready) != Some(false)
}

/// The label that names an endpoint: its hostname, else its address with dashes.
fn host_of(endpoint: &Endpoint, address: IpAddr) -> String {
    endpoint
        .hostname
        .clone()
        .unwrap_or_else(|| address.to_string().replace(['.', ':'], "-"))
}

/// The target of an ExternalName service.
fn external(service: &Service) -> Option<&str> {
    let spec = service.spec.as_ref()?;
    (spec.type_.as_deref() == Some("ExternalName")).then(|| spec.external_name.as_deref()).flatten()
}

/// The addresses of a service of its own; `None` for a headless one.
fn cluster_addresses(service: &Service) -> Option<Vec<IpAddr>> {
    let spec = service.spec.as_ref()?;
    let one = spec.cluster_ip.as_deref().unwrap_or_default();
    if one.is_empty() || one == "None" {
        return None;
    }
    let mut all: Vec<IpAddr> =
        spec.cluster_ips.iter().flatten().filter_map(|a| a.parse().ok()).collect();
    if all.is_empty() {
        all.extend(one.parse::<IpAddr>().ok());
    }
    Some(all)
}

fn address_record(name: &Name, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    };
    Record::from_rdata(name.clone(), TTL, data)
}

fn found(name: &Name, addresses: &[IpAddr], kind: RecordType) -> Lookup {
    let records = addresses
        .iter()
        .filter(|address| match kind {
            RecordType::A => address.is_ipv4(),
            RecordType::AAAA => address.is_ipv6(),
            RecordType::ANY => true,
            _ => false,
        })
        .map(|address| address_record(name, *address))
        .collect();
    Lookup::Found(Answer { records, ..Answer::default() })
}

/// The address in a pod's name: `10-1-2-3`, or an IPv6 address with dashes.
fn undashed(label: &str) -> Option<IpAddr> {
    label
        .replace('-', ".")
        .parse::<Ipv4Addr>()
        .map(IpAddr::from)
        .or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::from))
        .ok()
}

/// The address in a name under `in-addr.arpa` or `ip6.arpa`.
fn reverse(name: &Name) -> Option<IpAddr> {
    let labels: Vec<_> = name.iter().map(|l| String::from_utf8_lossy(l).into_owned()).collect();
    let (rest, zone) = labels.split_at_checked(labels.len().checked_sub(2)?)?;
    match (zone.first()?.as_str(), zone.get(1)?.as_str(), rest.len()) {
        ("in-addr", "arpa", 4) => {
            let text: Vec<_> = rest.iter().rev().map(String::as_str).collect();
            text.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::from)
        }
        ("ip6", "arpa", 32) => {
            let digits: String = rest.iter().rev().map(String::as_str).collect();
            u128::from_str_radix(&digits, 16).ok().map(|n| Ipv6Addr::from(n).into())
        }
        _ => None,
    }
}
