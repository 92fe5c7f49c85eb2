//! The Service by which pods reach the DNS server.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};

use crate::Error;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";

/// Makes sure that the Service `kube-system/kube-dns` has `cluster_ip` and leads to `endpoint`.
///
/// # Errors
/// [`Error::Api`] if the API server refuses.
pub async fn ensure_service(
    client: Client,
    cluster_ip: IpAddr,
    endpoint: SocketAddr,
) -> Result<(), Error> {
    let params = PatchParams::apply("knarr-dns").force();
    let port = |name: &str, protocol: &str| -> serde_json::Value {
        serde_json::json!({ "name": name, "protocol": protocol, "port": 53 })
    };
    let service = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": NAME,
            "labels": {
                "k8s-app": "kube-dns",
                "kubernetes.io/cluster-service": "true",
                "kubernetes.io/name": "CoreDNS",
            },
        },
        "spec": {
            "clusterIP": cluster_ip.to_string(),
            "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
        },
    });
    let api: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    api.patch(NAME, &params, &Patch::Apply(service)).await?;

    let number = endpoint.port();
    let slice = serde_json::json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": NAME,
            "labels": {
                "kubernetes.io/service-name": NAME,
                "endpointslice.kubernetes.io/managed-by": "knarr-dns",
            },
        },
        "addressType": if endpoint.is_ipv4() { "IPv4" } else { "IPv6" },
        "ports": [
            { "name": "dns", "protocol": "UDP", "port": number },
            { "name": "dns-tcp", "protocol": "TCP", "port": number },
        ],
        "endpoints": [{
            "addresses": [endpoint.ip().to_string()],
            "conditions": { "ready": true },
        }],
    });
    let api: Api<EndpointSlice> = Api::namespaced(client, NAMESPACE);
    api.patch(NAME, &params, &Patch::Apply(slice)).await?;
    Ok(())
}
