//! A runtime that only pretends, over the real wire.
#![allow(clippy::unwrap_used)]
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    pin::Pin,
    sync::{Arc, Mutex},
};

use futures::Stream;
use knarr_cri_api::v1::{
    self, image_service_server::ImageService, runtime_service_server::RuntimeService,
};
use tokio::sync::broadcast;
use tonic::{Request, Response, Status};

type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Clone)]
pub struct Container {
    pub sandbox: String,
    pub config: v1::ContainerConfig,
    pub status: v1::ContainerStatus,
}

#[derive(Default)]
pub struct State {
    next: u64,
    pub images: BTreeSet<String>,
    /// Images that can be pulled.
    pub registry: BTreeSet<String>,
    pub sandboxes: BTreeMap<String, (v1::PodSandboxConfig, v1::PodSandboxStatus)>,
    pub containers: BTreeMap<String, Container>,
    /// Exit codes of exec by command.
    pub exec: HashMap<String, i32>,
    /// Every command run by exec.
    pub execed: Vec<String>,
    /// Containers of these names end at once with that code.
    pub ends_with: HashMap<String, i32>,
    pub calls: Vec<String>,
    /// Where exec is served.
    pub streaming: String,
    /// Whether pods may have user namespaces.
    pub users: bool,
}

#[derive(Clone)]
pub struct Fake {
    pub state: Arc<Mutex<State>>,
    events: broadcast::Sender<v1::ContainerEventResponse>,
}

fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap()
}

impl Fake {
    pub fn new() -> Self {
        Fake {
            state: Arc::default(),
            events: broadcast::channel(1000).0,
        }
    }

    /// Serves on loopback; gives a channel to it.
    pub async fn channel(&self) -> tonic::transport::Channel {
        let l = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = l.local_addr().unwrap();
        let me = self.clone();
        tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(v1::runtime_service_server::RuntimeServiceServer::new(
                    me.clone(),
                ))
                .add_service(v1::image_service_server::ImageServiceServer::new(me))
                .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(l))
                .await
                .unwrap();
        });
        tonic::transport::Endpoint::from_shared(format!("http://{addr}"))
            .unwrap()
            .connect_lazy()
    }

    fn send(&self, s: &State, container: &str, kind: v1::ContainerEventType) {
        let c = &s.containers[container];
        let _ = self.events.send(v1::ContainerEventResponse {
            container_id: container.into(),
            container_event_type: kind as i32,
            created_at: now(),
            pod_sandbox_status: s.sandboxes.get(&c.sandbox).map(|s| s.1.clone()),
            containers_statuses: s
                .containers
                .values()
                .filter(|x| x.sandbox == c.sandbox)
                .map(|x| x.status.clone())
                .collect(),
        });
    }

    /// The newest container of that name.
    pub fn find(&self, name: &str) -> Option<Container> {
        let s = self.state.lock().unwrap();
        s.containers
            .values()
            .filter(|c| c.config.metadata.as_ref().unwrap().name == name)
            .max_by_key(|c| c.status.created_at)
            .cloned()
    }

    /// Ends the newest container of that name.
    pub fn exit(&self, name: &str, code: i32) {
        let id = self.find(name).unwrap().status.id;
        self.exit_id(&id, code, "");
    }

    pub fn exit_id(&self, id: &str, code: i32, reason: &str) {
        let mut s = self.state.lock().unwrap();
        let c = s.containers.get_mut(id).unwrap();
        if c.status.state == v1::ContainerState::ContainerExited as i32 {
            return;
        }
        c.status.state = v1::ContainerState::ContainerExited as i32;
        c.status.exit_code = code;
        c.status.reason = reason.into();
        c.status.finished_at = now();
        self.send(&s, id, v1::ContainerEventType::ContainerStoppedEvent);
    }

    /// As if the run folder were lost.
    pub fn forget(&self) {
        let mut s = self.state.lock().unwrap();
        s.containers.clear();
        s.sandboxes.clear();
    }
}

#[tonic::async_trait]
impl RuntimeService for Fake {
    async fn version(
        &self,
        _: Request<v1::VersionRequest>,
    ) -> Result<Response<v1::VersionResponse>, Status> {
        Ok(Response::new(v1::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "fake".into(),
            runtime_version: "1".into(),
            runtime_api_version: "v1".into(),
        }))
    }
    async fn status(
        &self,
        _: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        let ok = |t: &str| v1::RuntimeCondition {
            r#type: t.into(),
            status: true,
            ..Default::default()
        };
        Ok(Response::new(v1::StatusResponse {
            status: Some(v1::RuntimeStatus {
                conditions: vec![ok("RuntimeReady"), ok("NetworkReady")],
            }),
            runtime_handlers: vec![v1::RuntimeHandler {
                name: String::new(),
                features: Some(v1::RuntimeHandlerFeatures {
                    recursive_read_only_mounts: true,
                    user_namespaces: self.state.lock().unwrap().users,
                }),
            }],
            ..Default::default()
        }))
    }
    async fn run_pod_sandbox(
        &self,
        r: Request<v1::RunPodSandboxRequest>,
    ) -> Result<Response<v1::RunPodSandboxResponse>, Status> {
        let config = r.into_inner().config.unwrap();
        let mut s = self.state.lock().unwrap();
        s.next += 1;
        let id = format!("sandbox{}", s.next);
        let ip = format!("10.0.0.{}", s.next);
        let status = v1::PodSandboxStatus {
            id: id.clone(),
            metadata: config.metadata.clone(),
            state: v1::PodSandboxState::SandboxReady as i32,
            created_at: now(),
            network: Some(v1::PodSandboxNetworkStatus {
                ip,
                additional_ips: vec![],
            }),
            labels: config.labels.clone(),
            ..Default::default()
        };
        s.calls.push(format!("run {id}"));
        s.sandboxes.insert(id.clone(), (config, status));
        Ok(Response::new(v1::RunPodSandboxResponse {
            pod_sandbox_id: id,
        }))
    }
    async fn stop_pod_sandbox(
        &self,
        r: Request<v1::StopPodSandboxRequest>,
    ) -> Result<Response<v1::StopPodSandboxResponse>, Status> {
        let id = r.into_inner().pod_sandbox_id;
        let live: Vec<String> = {
            let mut s = self.state.lock().unwrap();
            s.calls.push(format!("stop {id}"));
            if let Some(x) = s.sandboxes.get_mut(&id) {
                x.1.state = v1::PodSandboxState::SandboxNotready as i32;
            }
            s.containers
                .values()
                .filter(|c| c.sandbox == id)
                .map(|c| c.status.id.clone())
                .collect()
        };
        for c in live {
            self.exit_id(&c, 137, "Error");
        }
        Ok(Response::new(v1::StopPodSandboxResponse {}))
    }
    async fn remove_pod_sandbox(
        &self,
        r: Request<v1::RemovePodSandboxRequest>,
    ) -> Result<Response<v1::RemovePodSandboxResponse>, Status> {
        let id = r.into_inner().pod_sandbox_id;
        let mut s = self.state.lock().unwrap();
        s.sandboxes.remove(&id);
        s.containers.retain(|_, c| c.sandbox != id);
        Ok(Response::new(v1::RemovePodSandboxResponse {}))
    }
    async fn pod_sandbox_status(
        &self,
        r: Request<v1::PodSandboxStatusRequest>,
    ) -> Result<Response<v1::PodSandboxStatusResponse>, Status> {
        let id = r.into_inner().pod_sandbox_id;
        let s = self.state.lock().unwrap();
        let x = s.sandboxes.get(&id).ok_or_else(|| Status::not_found(id))?;
        Ok(Response::new(v1::PodSandboxStatusResponse {
            status: Some(x.1.clone()),
            ..Default::default()
        }))
    }
    async fn list_pod_sandbox(
        &self,
        r: Request<v1::ListPodSandboxRequest>,
    ) -> Result<Response<v1::ListPodSandboxResponse>, Status> {
        let f = r.into_inner().filter.unwrap_or_default();
        let s = self.state.lock().unwrap();
        let items = s
            .sandboxes
            .values()
            .filter(|x| {
                f.label_selector
                    .iter()
                    .all(|(k, v)| x.1.labels.get(k) == Some(v))
            })
            .map(|x| v1::PodSandbox {
                id: x.1.id.clone(),
                metadata: x.1.metadata.clone(),
                state: x.1.state,
                created_at: x.1.created_at,
                labels: x.1.labels.clone(),
                ..Default::default()
            })
            .collect();
        Ok(Response::new(v1::ListPodSandboxResponse { items }))
    }
    async fn create_container(
        &self,
        r: Request<v1::CreateContainerRequest>,
    ) -> Result<Response<v1::CreateContainerResponse>, Status> {
        let r = r.into_inner();
        let config = r.config.unwrap();
        let mut s = self.state.lock().unwrap();
        s.next += 1;
        let id = format!("ctr{}", s.next);
        let status = v1::ContainerStatus {
            id: id.clone(),
            metadata: config.metadata.clone(),
            state: v1::ContainerState::ContainerCreated as i32,
            created_at: now(),
            image: config.image.clone(),
            image_ref: "sha256:abc".into(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.clone(),
            ..Default::default()
        };
        s.calls
            .push(format!("create {}", config.metadata.as_ref().unwrap().name));
        s.containers.insert(
            id.clone(),
            Container {
                sandbox: r.pod_sandbox_id,
                config,
                status,
            },
        );
        Ok(Response::new(v1::CreateContainerResponse {
            container_id: id,
        }))
    }
    async fn start_container(
        &self,
        r: Request<v1::StartContainerRequest>,
    ) -> Result<Response<v1::StartContainerResponse>, Status> {
        let id = r.into_inner().container_id;
        let ends = {
            let mut s = self.state.lock().unwrap();
            let c = s.containers.get_mut(&id).unwrap();
            let name = c.config.metadata.as_ref().unwrap().name.clone();
            c.status.state = v1::ContainerState::ContainerRunning as i32;
            c.status.started_at = now();
            s.calls.push(format!("start {name}"));
            self.send(&s, &id, v1::ContainerEventType::ContainerStartedEvent);
            s.ends_with.get(&name).copied()
        };
        if let Some(code) = ends {
            self.exit_id(&id, code, "");
        }
        Ok(Response::new(v1::StartContainerResponse {}))
    }
    async fn stop_container(
        &self,
        r: Request<v1::StopContainerRequest>,
    ) -> Result<Response<v1::StopContainerResponse>, Status> {
        let r = r.into_inner();
        let name = self
            .state
            .lock()
            .unwrap()
            .containers
            .get(&r.container_id)
            .map(|c| c.config.metadata.as_ref().unwrap().name.clone())
            .ok_or_else(|| Status::not_found("no such container"))?;
        self.state
            .lock()
            .unwrap()
            .calls
            .push(format!("stop {name} {}", r.timeout));
        self.exit_id(&r.container_id, 143, "Error");
        Ok(Response::new(v1::StopContainerResponse {}))
    }
    async fn remove_container(
        &self,
        r: Request<v1::RemoveContainerRequest>,
    ) -> Result<Response<v1::RemoveContainerResponse>, Status> {
        self.state
            .lock()
            .unwrap()
            .containers
            .remove(&r.into_inner().container_id);
        Ok(Response::new(v1::RemoveContainerResponse {}))
    }
    async fn list_containers(
        &self,
        r: Request<v1::ListContainersRequest>,
    ) -> Result<Response<v1::ListContainersResponse>, Status> {
        let f = r.into_inner().filter.unwrap_or_default();
        let s = self.state.lock().unwrap();
        let containers = s
            .containers
            .values()
            .filter(|x| {
                f.label_selector
                    .iter()
                    .all(|(k, v)| x.status.labels.get(k) == Some(v))
            })
            .map(|x| v1::Container {
                id: x.status.id.clone(),
                pod_sandbox_id: x.sandbox.clone(),
                metadata: x.status.metadata.clone(),
                state: x.status.state,
                labels: x.status.labels.clone(),
                ..Default::default()
            })
            .collect();
        Ok(Response::new(v1::ListContainersResponse { containers }))
    }
    async fn container_status(
        &self,
        r: Request<v1::ContainerStatusRequest>,
    ) -> Result<Response<v1::ContainerStatusResponse>, Status> {
        let id = r.into_inner().container_id;
        let s = self.state.lock().unwrap();
        let c = s.containers.get(&id).ok_or_else(|| Status::not_found(id))?;
        Ok(Response::new(v1::ContainerStatusResponse {
            status: Some(c.status.clone()),
            ..Default::default()
        }))
    }
    async fn exec_sync(
        &self,
        r: Request<v1::ExecSyncRequest>,
    ) -> Result<Response<v1::ExecSyncResponse>, Status> {
        let cmd = r.into_inner().cmd.join(" ");
        let mut s = self.state.lock().unwrap();
        s.execed.push(cmd.clone());
        let exit_code = s.exec.get(&cmd).copied().unwrap_or(0);
        Ok(Response::new(v1::ExecSyncResponse {
            exit_code,
            ..Default::default()
        }))
    }
    async fn get_container_events(
        &self,
        _: Request<v1::GetEventsRequest>,
    ) -> Result<Response<Self::GetContainerEventsStream>, Status> {
        let rx = self.events.subscribe();
        let s = futures::StreamExt::map(tokio_stream::wrappers::BroadcastStream::new(rx), |e| {
            e.map_err(|e| Status::internal(e.to_string()))
        });
        Ok(Response::new(Box::pin(s)))
    }
    type StreamPodSandboxesStream = Events<v1::StreamPodSandboxesResponse>;
    type StreamContainersStream = Events<v1::StreamContainersResponse>;
    type StreamContainerStatsStream = Events<v1::StreamContainerStatsResponse>;
    type StreamPodSandboxStatsStream = Events<v1::StreamPodSandboxStatsResponse>;
    type GetContainerEventsStream = Events<v1::ContainerEventResponse>;
    type StreamPodSandboxMetricsStream = Events<v1::StreamPodSandboxMetricsResponse>;
    async fn stream_pod_sandboxes(
        &self,
        _: Request<v1::StreamPodSandboxesRequest>,
    ) -> Result<Response<Self::StreamPodSandboxesStream>, Status> {
        Err(Status::unimplemented("stream_pod_sandboxes"))
    }
    async fn stream_containers(
        &self,
        _: Request<v1::StreamContainersRequest>,
    ) -> Result<Response<Self::StreamContainersStream>, Status> {
        Err(Status::unimplemented("stream_containers"))
    }
    async fn update_container_resources(
        &self,
        r: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Result<Response<v1::UpdateContainerResourcesResponse>, Status> {
        let r = r.into_inner();
        let mut s = self.state.lock().unwrap();
        let c = s
            .containers
            .get_mut(&r.container_id)
            .ok_or_else(|| Status::not_found("container"))?;
        if let Some(l) = c.config.linux.as_mut() {
            l.resources = r.linux;
        }
        Ok(Response::new(v1::UpdateContainerResourcesResponse {}))
    }
    async fn reopen_container_log(
        &self,
        _: Request<v1::ReopenContainerLogRequest>,
    ) -> Result<Response<v1::ReopenContainerLogResponse>, Status> {
        Err(Status::unimplemented("reopen_container_log"))
    }
    async fn exec(
        &self,
        _: Request<v1::ExecRequest>,
    ) -> Result<Response<v1::ExecResponse>, Status> {
        Ok(Response::new(v1::ExecResponse {
            url: self.state.lock().unwrap().streaming.clone(),
        }))
    }
    async fn attach(
        &self,
        _: Request<v1::AttachRequest>,
    ) -> Result<Response<v1::AttachResponse>, Status> {
        Err(Status::unimplemented("attach"))
    }
    async fn port_forward(
        &self,
        _: Request<v1::PortForwardRequest>,
    ) -> Result<Response<v1::PortForwardResponse>, Status> {
        Err(Status::unimplemented("port_forward"))
    }
    async fn container_stats(
        &self,
        _: Request<v1::ContainerStatsRequest>,
    ) -> Result<Response<v1::ContainerStatsResponse>, Status> {
        Err(Status::unimplemented("container_stats"))
    }
    async fn list_container_stats(
        &self,
        _: Request<v1::ListContainerStatsRequest>,
    ) -> Result<Response<v1::ListContainerStatsResponse>, Status> {
        Err(Status::unimplemented("list_container_stats"))
    }
    async fn stream_container_stats(
        &self,
        _: Request<v1::StreamContainerStatsRequest>,
    ) -> Result<Response<Self::StreamContainerStatsStream>, Status> {
        Err(Status::unimplemented("stream_container_stats"))
    }
    async fn pod_sandbox_stats(
        &self,
        _: Request<v1::PodSandboxStatsRequest>,
    ) -> Result<Response<v1::PodSandboxStatsResponse>, Status> {
        Err(Status::unimplemented("pod_sandbox_stats"))
    }
    async fn list_pod_sandbox_stats(
        &self,
        _: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Result<Response<v1::ListPodSandboxStatsResponse>, Status> {
        Err(Status::unimplemented("list_pod_sandbox_stats"))
    }
    async fn stream_pod_sandbox_stats(
        &self,
        _: Request<v1::StreamPodSandboxStatsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxStatsStream>, Status> {
        Err(Status::unimplemented("stream_pod_sandbox_stats"))
    }
    async fn update_runtime_config(
        &self,
        _: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Result<Response<v1::UpdateRuntimeConfigResponse>, Status> {
        Err(Status::unimplemented("update_runtime_config"))
    }
    async fn checkpoint_container(
        &self,
        r: Request<v1::CheckpointContainerRequest>,
    ) -> Result<Response<v1::CheckpointContainerResponse>, Status> {
        let r = r.into_inner();
        // A runtime that takes longer than it is given.
        if r.timeout == 1 {
            return Err(Status::deadline_exceeded("no checkpoint in 1 s"));
        }
        std::fs::write(&r.location, &r.container_id)?;
        Ok(Response::new(v1::CheckpointContainerResponse {}))
    }
    async fn checkpoint_pod(
        &self,
        _: Request<v1::CheckpointPodRequest>,
    ) -> Result<Response<v1::CheckpointPodResponse>, Status> {
        Err(Status::unimplemented("checkpoint_pod"))
    }
    async fn restore_pod(
        &self,
        _: Request<v1::RestorePodRequest>,
    ) -> Result<Response<v1::RestorePodResponse>, Status> {
        Err(Status::unimplemented("restore_pod"))
    }
    async fn list_metric_descriptors(
        &self,
        _: Request<v1::ListMetricDescriptorsRequest>,
    ) -> Result<Response<v1::ListMetricDescriptorsResponse>, Status> {
        Err(Status::unimplemented("list_metric_descriptors"))
    }
    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<v1::ListPodSandboxMetricsRequest>,
    ) -> Result<Response<v1::ListPodSandboxMetricsResponse>, Status> {
        Err(Status::unimplemented("list_pod_sandbox_metrics"))
    }
    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<v1::StreamPodSandboxMetricsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxMetricsStream>, Status> {
        Err(Status::unimplemented("stream_pod_sandbox_metrics"))
    }
    async fn runtime_config(
        &self,
        _: Request<v1::RuntimeConfigRequest>,
    ) -> Result<Response<v1::RuntimeConfigResponse>, Status> {
        Err(Status::unimplemented("runtime_config"))
    }
    async fn update_pod_sandbox_resources(
        &self,
        _: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Result<Response<v1::UpdatePodSandboxResourcesResponse>, Status> {
        Err(Status::unimplemented("update_pod_sandbox_resources"))
    }
}

fn image(name: &str) -> v1::Image {
    v1::Image {
        id: format!("sha256:{name}"),
        repo_tags: vec![name.into()],
        size: 1,
        uid: Some(v1::Int64Value { value: 0 }),
        ..Default::default()
    }
}

#[tonic::async_trait]
impl ImageService for Fake {
    async fn list_images(
        &self,
        _: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesResponse>, Status> {
        let s = self.state.lock().unwrap();
        Ok(Response::new(v1::ListImagesResponse {
            images: s.images.iter().map(|i| image(i)).collect(),
        }))
    }
    async fn image_status(
        &self,
        r: Request<v1::ImageStatusRequest>,
    ) -> Result<Response<v1::ImageStatusResponse>, Status> {
        let name = r.into_inner().image.unwrap().image;
        let s = self.state.lock().unwrap();
        Ok(Response::new(v1::ImageStatusResponse {
            image: s.images.contains(&name).then(|| image(&name)),
            ..Default::default()
        }))
    }
    async fn pull_image(
        &self,
        r: Request<v1::PullImageRequest>,
    ) -> Result<Response<v1::PullImageResponse>, Status> {
        let name = r.into_inner().image.unwrap().image;
        let mut s = self.state.lock().unwrap();
        s.calls.push(format!("pull {name}"));
        if !s.registry.contains(&name) {
            return Err(Status::not_found(format!("{name}: not found")));
        }
        s.images.insert(name.clone());
        Ok(Response::new(v1::PullImageResponse { image_ref: name }))
    }
    type StreamImagesStream = Events<v1::StreamImagesResponse>;
    async fn stream_images(
        &self,
        _: Request<v1::StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        Err(Status::unimplemented("stream_images"))
    }
    async fn remove_image(
        &self,
        _: Request<v1::RemoveImageRequest>,
    ) -> Result<Response<v1::RemoveImageResponse>, Status> {
        Err(Status::unimplemented("remove_image"))
    }
    async fn image_fs_info(
        &self,
        _: Request<v1::ImageFsInfoRequest>,
    ) -> Result<Response<v1::ImageFsInfoResponse>, Status> {
        Err(Status::unimplemented("image_fs_info"))
    }
}
