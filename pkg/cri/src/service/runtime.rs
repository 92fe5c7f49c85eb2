//! The runtime service.

use std::sync::Arc;

use knarr_cri_api::v1::runtime_service_server::RuntimeService;
use knarr_cri_api::v1::*;
use tonic::{Request, Response, Status};

use super::{Answers, chunks, id_matches, labels_match};
use crate::container::Phase;
use crate::events::Events;
use crate::record::now;
use crate::{Cri, Error};

/// Serves `runtime.v1.RuntimeService`.
#[derive(Debug, Clone)]
pub struct Runtime(pub(crate) Arc<Cri>);

fn unsupported(what: &str) -> Status {
    Error::Unsupported(what.to_owned()).into()
}

impl Runtime {
    fn sandboxes(&self, filter: Option<PodSandboxFilter>) -> Vec<PodSandbox> {
        let filter = filter.unwrap_or_default();
        let mut all: Vec<PodSandbox> = self
            .0
            .all_sandboxes()
            .iter()
            .filter(|s| id_matches(&s.id, &filter.id))
            .filter(|s| labels_match(&s.config.labels, &filter.label_selector))
            .map(|s| s.summary())
            .collect();
        if let Some(state) = filter.state {
            all.retain(|s| s.state == state.state);
        }
        all
    }

    fn containers(&self, filter: Option<ContainerFilter>) -> Vec<Container> {
        let filter = filter.unwrap_or_default();
        let mut all: Vec<Container> = self
            .0
            .all_containers()
            .iter()
            .filter(|c| id_matches(&c.id, &filter.id))
            .map(|c| c.summary())
            .filter(|c| id_matches(&c.pod_sandbox_id, &filter.pod_sandbox_id))
            .filter(|c| labels_match(&c.labels, &filter.label_selector))
            .collect();
        if let Some(state) = filter.state {
            all.retain(|c| c.state == state.state);
        }
        all
    }

    async fn list_stats(
        &self,
        filter: Option<ContainerStatsFilter>,
    ) -> Result<Vec<ContainerStats>, Error> {
        let filter = filter.unwrap_or_default();
        let mut out = Vec::new();
        for c in self.0.all_containers() {
            let wanted = id_matches(&c.id, &filter.id)
                && id_matches(&c.record().sandbox, &filter.pod_sandbox_id)
                && labels_match(&c.config().labels, &filter.label_selector);
            if wanted && matches!(c.phase(), Phase::Running { .. }) {
                out.push(self.0.container_stats(&c).await?);
            }
        }
        Ok(out)
    }

    async fn list_pod_stats(
        &self,
        filter: Option<PodSandboxStatsFilter>,
    ) -> Result<Vec<PodSandboxStats>, Error> {
        let filter = filter.unwrap_or_default();
        let mut out = Vec::new();
        for s in self.0.all_sandboxes() {
            let wanted = id_matches(&s.id, &filter.id)
                && labels_match(&s.config.labels, &filter.label_selector);
            if wanted && s.ready() {
                out.push(self.0.sandbox_stats(&s).await?);
            }
        }
        Ok(out)
    }
}

#[tonic::async_trait]
impl RuntimeService for Runtime {
    async fn version(
        &self,
        _: Request<VersionRequest>,
    ) -> Result<Response<VersionResponse>, Status> {
        Ok(Response::new(VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "knarr".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        }))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<RunPodSandboxRequest>,
    ) -> Result<Response<RunPodSandboxResponse>, Status> {
        let request = request.into_inner();
        let config = request
            .config
            .ok_or_else(|| Error::Invalid("sandbox config is missing".to_owned()))?;
        let id = self.0.run_sandbox(config, request.runtime_handler).await?;
        Ok(Response::new(RunPodSandboxResponse { pod_sandbox_id: id }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<StopPodSandboxRequest>,
    ) -> Result<Response<StopPodSandboxResponse>, Status> {
        self.0
            .stop_sandbox(&request.into_inner().pod_sandbox_id)
            .await?;
        Ok(Response::new(StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> Result<Response<RemovePodSandboxResponse>, Status> {
        self.0
            .remove_sandbox(&request.into_inner().pod_sandbox_id)
            .await?;
        Ok(Response::new(RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Result<Response<PodSandboxStatusResponse>, Status> {
        let request = request.into_inner();
        let sandbox = self.0.sandbox(&request.pod_sandbox_id)?;
        let info = match request.verbose {
            true => sandbox.info(self.0.check_network(&sandbox).await),
            false => Default::default(),
        };
        Ok(Response::new(PodSandboxStatusResponse {
            status: Some(sandbox.status()),
            info,
            containers_statuses: self
                .0
                .containers_of(&sandbox.id)
                .iter()
                .map(|c| c.status())
                .collect(),
            timestamp: now(),
        }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Result<Response<ListPodSandboxResponse>, Status> {
        let items = self.sandboxes(request.into_inner().filter);
        Ok(Response::new(ListPodSandboxResponse { items }))
    }

    type StreamPodSandboxesStream = Answers<StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<StreamPodSandboxesRequest>,
    ) -> Result<Response<Self::StreamPodSandboxesStream>, Status> {
        let items = self.sandboxes(request.into_inner().filter);
        Ok(Response::new(chunks(items, |pod_sandboxes| {
            StreamPodSandboxesResponse { pod_sandboxes }
        })))
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Result<Response<CreateContainerResponse>, Status> {
        let request = request.into_inner();
        let config = request
            .config
            .ok_or_else(|| Error::Invalid("container config is missing".to_owned()))?;
        let id = self
            .0
            .create_container(&request.pod_sandbox_id, config)
            .await?;
        Ok(Response::new(CreateContainerResponse { container_id: id }))
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Result<Response<StartContainerResponse>, Status> {
        self.0
            .start_container(&request.into_inner().container_id)
            .await?;
        Ok(Response::new(StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<StopContainerRequest>,
    ) -> Result<Response<StopContainerResponse>, Status> {
        let request = request.into_inner();
        self.0
            .stop_container(&request.container_id, request.timeout)
            .await?;
        Ok(Response::new(StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> Result<Response<RemoveContainerResponse>, Status> {
        self.0
            .remove_container(&request.into_inner().container_id)
            .await?;
        Ok(Response::new(RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        let containers = self.containers(request.into_inner().filter);
        Ok(Response::new(ListContainersResponse { containers }))
    }

    type StreamContainersStream = Answers<StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<StreamContainersRequest>,
    ) -> Result<Response<Self::StreamContainersStream>, Status> {
        let containers = self.containers(request.into_inner().filter);
        Ok(Response::new(chunks(containers, |containers| {
            StreamContainersResponse { containers }
        })))
    }

    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> Result<Response<ContainerStatusResponse>, Status> {
        let request = request.into_inner();
        let container = self.0.container(&request.container_id)?;
        Ok(Response::new(ContainerStatusResponse {
            status: Some(container.status()),
            info: if request.verbose {
                container.info(&self.0)
            } else {
                Default::default()
            },
        }))
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Result<Response<UpdateContainerResourcesResponse>, Status> {
        let request = request.into_inner();
        if let Some(limits) = request.linux {
            self.0
                .update_resources(&request.container_id, limits)
                .await?;
        }
        Ok(Response::new(UpdateContainerResourcesResponse {}))
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Result<Response<ReopenContainerLogResponse>, Status> {
        let container = self.0.container(&request.into_inner().container_id)?;
        let shim = container.running().await?;
        shim.reopen_log().await.map_err(Error::from)?;
        Ok(Response::new(ReopenContainerLogResponse {}))
    }

    async fn exec_sync(
        &self,
        request: Request<ExecSyncRequest>,
    ) -> Result<Response<ExecSyncResponse>, Status> {
        let r = request.into_inner();
        let done = self.0.exec_sync(&r.container_id, r.cmd, r.timeout).await?;
        Ok(Response::new(done))
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Result<Response<ExecResponse>, Status> {
        let url = self.0.exec_url(request.into_inner()).await?;
        Ok(Response::new(ExecResponse { url }))
    }

    async fn attach(
        &self,
        request: Request<AttachRequest>,
    ) -> Result<Response<AttachResponse>, Status> {
        let url = self.0.attach_url(request.into_inner()).await?;
        Ok(Response::new(AttachResponse { url }))
    }

    async fn port_forward(
        &self,
        request: Request<PortForwardRequest>,
    ) -> Result<Response<PortForwardResponse>, Status> {
        let url = self.0.port_forward_url(request.into_inner()).await?;
        Ok(Response::new(PortForwardResponse { url }))
    }

    async fn container_stats(
        &self,
        request: Request<ContainerStatsRequest>,
    ) -> Result<Response<ContainerStatsResponse>, Status> {
        let container = self.0.container(&request.into_inner().container_id)?;
        let stats = self.0.container_stats(&container).await?;
        Ok(Response::new(ContainerStatsResponse { stats: Some(stats) }))
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Result<Response<ListContainerStatsResponse>, Status> {
        let stats = self.list_stats(request.into_inner().filter).await?;
        Ok(Response::new(ListContainerStatsResponse { stats }))
    }

    type StreamContainerStatsStream = Answers<StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<StreamContainerStatsRequest>,
    ) -> Result<Response<Self::StreamContainerStatsStream>, Status> {
        let stats = self.list_stats(request.into_inner().filter).await?;
        Ok(Response::new(chunks(stats, |container_stats| {
            StreamContainerStatsResponse { container_stats }
        })))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<PodSandboxStatsRequest>,
    ) -> Result<Response<PodSandboxStatsResponse>, Status> {
        let sandbox = self.0.sandbox(&request.into_inner().pod_sandbox_id)?;
        let stats = self.0.sandbox_stats(&sandbox).await?;
        Ok(Response::new(PodSandboxStatsResponse {
            stats: Some(stats),
        }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Result<Response<ListPodSandboxStatsResponse>, Status> {
        let stats = self.list_pod_stats(request.into_inner().filter).await?;
        Ok(Response::new(ListPodSandboxStatsResponse { stats }))
    }

    type StreamPodSandboxStatsStream = Answers<StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<StreamPodSandboxStatsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxStatsStream>, Status> {
        let stats = self.list_pod_stats(request.into_inner().filter).await?;
        Ok(Response::new(chunks(stats, |pod_sandbox_stats| {
            StreamPodSandboxStatsResponse { pod_sandbox_stats }
        })))
    }

    async fn update_runtime_config(
        &self,
        _: Request<UpdateRuntimeConfigRequest>,
    ) -> Result<Response<UpdateRuntimeConfigResponse>, Status> {
        // The pod range is the network's own setting.
        Ok(Response::new(UpdateRuntimeConfigResponse {}))
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let condition = |kind: &str, fault: Option<(&str, String)>| RuntimeCondition {
            r#type: kind.to_owned(),
            status: fault.is_none(),
            reason: fault
                .as_ref()
                .map_or(String::new(), |(r, _)| (*r).to_owned()),
            message: fault.map_or(String::new(), |(_, m)| m),
        };
        let network = self.0.config.network.status().await.err();
        let names = std::iter::once("").chain(self.0.config.handlers.keys().map(String::as_str));
        let mut names: Vec<&str> = names.collect();
        names.dedup();
        let mut runtime_handlers = Vec::with_capacity(names.len());
        for name in names {
            let features = match self.0.handler(name)? {
                Some(program) => self.0.features.of(&program).await,
                None => RuntimeHandlerFeatures {
                    recursive_read_only_mounts: true,
                    user_namespaces: crate::spec::userns::supported(),
                },
            };
            runtime_handlers.push(RuntimeHandler {
                name: name.to_owned(),
                features: Some(features),
            });
        }
        let mut info = std::collections::HashMap::new();
        if request.into_inner().verbose {
            let text = serde_json::json!({
                "runDir": self.0.config.run_dir,
                "dataDir": self.0.config.data_dir,
                "handlers": self.0.config.handlers,
            });
            info.insert("config".to_owned(), text.to_string());
        }
        Ok(Response::new(StatusResponse {
            status: Some(RuntimeStatus {
                conditions: vec![
                    condition("RuntimeReady", None),
                    condition(
                        "NetworkReady",
                        network.map(|m| {
                            let message = format!("Network plugin returns error: {m}");
                            ("NetworkPluginNotReady", message)
                        }),
                    ),
                ],
            }),
            info,
            runtime_handlers,
            features: Some(RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: false,
                mount_options: true,
            }),
        }))
    }

    async fn checkpoint_container(
        &self,
        request: Request<CheckpointContainerRequest>,
    ) -> Result<Response<CheckpointContainerResponse>, Status> {
        let r = request.into_inner();
        self.0
            .checkpoint(&r.container_id, &r.location, r.timeout)
            .await?;
        Ok(Response::new(CheckpointContainerResponse {}))
    }

    async fn checkpoint_pod(
        &self,
        _: Request<CheckpointPodRequest>,
    ) -> Result<Response<CheckpointPodResponse>, Status> {
        Err(unsupported("checkpoint of a pod"))
    }

    async fn restore_pod(
        &self,
        _: Request<RestorePodRequest>,
    ) -> Result<Response<RestorePodResponse>, Status> {
        Err(unsupported("restore of a pod"))
    }

    type GetContainerEventsStream = Events;

    async fn get_container_events(
        &self,
        _: Request<GetEventsRequest>,
    ) -> Result<Response<Self::GetContainerEventsStream>, Status> {
        Ok(Response::new(self.0.events()))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<ListMetricDescriptorsRequest>,
    ) -> Result<Response<ListMetricDescriptorsResponse>, Status> {
        Err(unsupported("listing metric descriptors"))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<ListPodSandboxMetricsRequest>,
    ) -> Result<Response<ListPodSandboxMetricsResponse>, Status> {
        Err(unsupported("listing pod metrics"))
    }

    type StreamPodSandboxMetricsStream = Answers<StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<StreamPodSandboxMetricsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxMetricsStream>, Status> {
        Err(unsupported("streaming pod metrics"))
    }

    async fn runtime_config(
        &self,
        _: Request<RuntimeConfigRequest>,
    ) -> Result<Response<RuntimeConfigResponse>, Status> {
        Ok(Response::new(RuntimeConfigResponse {
            linux: Some(LinuxRuntimeConfiguration {
                cgroup_driver: CgroupDriver::Cgroupfs.into(),
            }),
        }))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Result<Response<UpdatePodSandboxResourcesResponse>, Status> {
        // The pod's cgroup is the kubelet's; the runtime has nothing of its own to change.
        self.0.sandbox(&request.into_inner().pod_sandbox_id)?;
        Ok(Response::new(UpdatePodSandboxResourcesResponse {}))
    }
}
