//! The records of the specification, for objects as the API server stores them.

use super::*;

struct Fixed {
    services: Vec<Arc<Service>>,
    slices: Vec<Arc<EndpointSlice>>,
}

impl Facts for Fixed {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services(Some(namespace))
            .into_iter()
            .find(|s| s.metadata.name.as_deref() == Some(name))
    }
    fn services(&self, namespace: Option<&str>) -> Vec<Arc<Service>> {
        let of = |s: &&Arc<Service>| namespace.is_none_or(|ns| meta(&s.metadata.namespace) == ns);
        self.services.iter().filter(of).cloned().collect()
    }
    fn slices(&self, namespace: Option<&str>) -> Vec<Arc<EndpointSlice>> {
        let of =
            |s: &&Arc<EndpointSlice>| namespace.is_none_or(|ns| meta(&s.metadata.namespace) == ns);
        self.slices.iter().filter(of).cloned().collect()
    }
}

fn zone() -> Zone {
    let service = |text: &str| -> Arc<Service> { Arc::new(serde_json::from_str(text).unwrap()) };
    let services = vec![
        service(
            r#"{"metadata": {"name": "web", "namespace": "default"}, "spec": {
                "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"],
                "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}}"#,
        ),
        service(
            r#"{"metadata": {"name": "db", "namespace": "default"}, "spec": {
                "clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]}}"#,
        ),
        service(
            r#"{"metadata": {"name": "away", "namespace": "default"}, "spec": {
                "type": "ExternalName", "externalName": "foo.example.com"}}"#,
        ),
        service(
            r#"{"metadata": {"name": "alias", "namespace": "default"}, "spec": {
                "type": "ExternalName", "externalName": "web.default.svc.cluster.local"}}"#,
        ),
    ];
    let slice = serde_json::from_str(
        r#"{"metadata": {"name": "db-1", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "db"}},
            "addressType": "IPv4", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
            "endpoints": [
              {"addresses": ["10.244.0.5"], "hostname": "db-0", "conditions": {"ready": true}},
              {"addresses": ["10.244.0.6"], "conditions": {"ready": true}},
              {"addresses": ["10.244.0.9"], "conditions": {"ready": false}}]}"#,
    )
    .unwrap();
    let facts = Fixed { services, slices: vec![Arc::new(slice)] };
    Zone::with("cluster.local", Box::new(facts)).unwrap()
}

fn ask(name: &str, kind: RecordType) -> Lookup {
    zone().lookup(&Name::from_ascii(name).unwrap(), kind)
}

fn texts(lookup: Lookup) -> Vec<String> {
    match lookup {
        Lookup::Found(answer) => answer.records.iter().map(|r| r.data.to_string()).collect(),
        other => vec![format!("{other:?}")],
    }
}

#[test]
fn a_service_has_its_cluster_address() {
    assert_eq!(texts(ask("web.default.svc.cluster.local.", RecordType::A)), ["10.96.0.7"]);
    assert_eq!(texts(ask("WEB.default.SVC.cluster.local.", RecordType::A)), ["10.96.0.7"]);
    assert!(texts(ask("web.default.svc.cluster.local.", RecordType::AAAA)).is_empty());
    assert_eq!(ask("no.default.svc.cluster.local.", RecordType::A), Lookup::Missing);
    assert_eq!(ask("web.none.svc.cluster.local.", RecordType::A), Lookup::Missing);
}

#[test]
fn a_headless_service_has_its_ready_endpoints() {
    let name = "db.default.svc.cluster.local.";
    assert_eq!(texts(ask(name, RecordType::A)), ["10.244.0.5", "10.244.0.6"]);
    assert_eq!(texts(ask(&format!("db-0.{name}"), RecordType::A)), ["10.244.0.5"]);
    assert_eq!(texts(ask(&format!("10-244-0-6.{name}"), RecordType::A)), ["10.244.0.6"]);
    assert_eq!(ask(&format!("db-7.{name}"), RecordType::A), Lookup::Missing);
}

#[test]
fn ports_have_srv_records_with_addresses() {
    let Lookup::Found(answer) = ask("_http._tcp.web.default.svc.cluster.local.", RecordType::SRV)
    else {
        panic!("the port exists");
    };
    assert_eq!(answer.records[0].data.to_string(), "0 100 80 web.default.svc.cluster.local.");
    assert_eq!(answer.additional[0].data.to_string(), "10.96.0.7");
    let sql = texts(ask("_sql._tcp.db.default.svc.cluster.local.", RecordType::SRV));
    assert_eq!(sql[0], "0 100 5432 db-0.db.default.svc.cluster.local.");
    assert_eq!(
        ask("_http._udp.web.default.svc.cluster.local.", RecordType::SRV),
        Lookup::Missing
    );
}

#[test]
fn external_names_are_aliases() {
    let Lookup::Found(answer) = ask("away.default.svc.cluster.local.", RecordType::A) else {
        panic!("the service exists");
    };
    assert_eq!(answer.records[0].data.to_string(), "foo.example.com.");
    assert_eq!(answer.chase.unwrap().to_string(), "foo.example.com.");
    let inside = texts(ask("alias.default.svc.cluster.local.", RecordType::A));
    assert_eq!(inside, ["web.default.svc.cluster.local.", "10.96.0.7"]);
}

#[test]
fn addresses_point_back() {
    assert_eq!(
        texts(ask("7.0.96.10.in-addr.arpa.", RecordType::PTR)),
        ["web.default.svc.cluster.local."]
    );
    assert_eq!(
        texts(ask("5.0.244.10.in-addr.arpa.", RecordType::PTR)),
        ["db-0.db.default.svc.cluster.local."]
    );
    assert_eq!(ask("1.1.1.1.in-addr.arpa.", RecordType::PTR), Lookup::Foreign);
}

#[test]
fn pods_have_names_and_empty_names_exist() {
    assert_eq!(
        texts(ask("10-244-0-5.default.pod.cluster.local.", RecordType::A)),
        ["10.244.0.5"]
    );
    assert!(texts(ask("default.svc.cluster.local.", RecordType::A)).is_empty());
    assert_eq!(ask("nothing.svc.cluster.local.", RecordType::A), Lookup::Missing);
    assert_eq!(ask("example.com.", RecordType::A), Lookup::Foreign);
}
