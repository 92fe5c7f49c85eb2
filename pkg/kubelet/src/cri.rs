//! The runtime below, spoken to over CRI v1.
use std::{sync::OnceLock, time::Duration};

use knarr_cri_api::v1::{
    self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use tonic::{Code, Request, Status, transport::Channel};

use crate::model::{Runtime, label};

/// Largest message accepted (lists of many images or containers).
const MAX_MESSAGE: usize = 16 << 20;

/// Clients of both services; cheap to clone.
#[derive(Clone, Debug)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    image: ImageServiceClient<Channel>,
}

/// The runtime's name and version, as in nodeInfo.
pub static RUNTIME_NAME: OnceLock<String> = OnceLock::new();

macro_rules! call {
    ($name:ident, $service:ident, $req:ident, $resp:ident) => {
        /// The call of that name.
        pub async fn $name(&self, req: v1::$req) -> Result<v1::$resp, Status> {
            self.$service
                .clone()
                .$name(req)
                .await
                .map(tonic::Response::into_inner)
        }
    };
}

impl Cri {
    /// Over an established channel.
    pub fn new(channel: Channel) -> Self {
        Cri {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
            image: ImageServiceClient::new(channel)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
        }
    }

    call!(version, runtime, VersionRequest, VersionResponse);
    call!(status, runtime, StatusRequest, StatusResponse);
    call!(run_pod_sandbox, runtime, RunPodSandboxRequest, RunPodSandboxResponse);
    call!(stop_pod_sandbox, runtime, StopPodSandboxRequest, StopPodSandboxResponse);
    call!(remove_pod_sandbox, runtime, RemovePodSandboxRequest, RemovePodSandboxResponse);
    call!(pod_sandbox_status, runtime, PodSandboxStatusRequest, PodSandboxStatusResponse);
    call!(list_pod_sandbox, runtime, ListPodSandboxRequest, ListPodSandboxResponse);
    call!(create_container, runtime, CreateContainerRequest, CreateContainerResponse);
    call!(start_container, runtime, StartContainerRequest, StartContainerResponse);
    call!(stop_container, runtime, StopContainerRequest, StopContainerResponse);
    call!(remove_container, runtime, RemoveContainerRequest, RemoveContainerResponse);
    call!(list_containers, runtime, ListContainersRequest, ListContainersResponse);
    call!(container_status, runtime, ContainerStatusRequest, ContainerStatusResponse);
    call!(
        update_container_resources,
        runtime,
        UpdateContainerResourcesRequest,
        UpdateContainerResourcesResponse
    );
    call!(reopen_container_log, runtime, ReopenContainerLogRequest, ReopenContainerLogResponse);
    call!(exec, runtime, ExecRequest, ExecResponse);
    call!(attach, runtime, AttachRequest, AttachResponse);
    call!(port_forward, runtime, PortForwardRequest, PortForwardResponse);
    call!(list_container_stats, runtime, ListContainerStatsRequest, ListContainerStatsResponse);
    call!(
        list_pod_sandbox_stats,
        runtime,
        ListPodSandboxStatsRequest,
        ListPodSandboxStatsResponse
    );
    call!(
        update_runtime_config,
        runtime,
        UpdateRuntimeConfigRequest,
        UpdateRuntimeConfigResponse
    );
    call!(list_images, image, ListImagesRequest, ListImagesResponse);
    call!(image_status, image, ImageStatusRequest, ImageStatusResponse);
    call!(pull_image, image, PullImageRequest, PullImageResponse);
    call!(remove_image, image, RemoveImageRequest, RemoveImageResponse);
    call!(image_fs_info, image, ImageFsInfoRequest, ImageFsInfoResponse);

    /// Runs a command in a container; fails with `DeadlineExceeded` after `timeout`.
    pub async fn exec_sync(
        &self,
        id: &str,
        cmd: Vec<String>,
        timeout: Duration,
    ) -> Result<v1::ExecSyncResponse, Status> {
        let secs = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
        let mut req = Request::new(v1::ExecSyncRequest {
            container_id: id.into(),
            cmd,
            timeout: secs,
        });
        if !timeout.is_zero() {
            // the runtime is to answer first
            req.set_timeout(timeout + Duration::from_secs(2));
        }
        self.runtime
            .clone()
            .exec_sync(req)
            .await
            .map(tonic::Response::into_inner)
    }

    /// Writes a checkpoint of a container to a file; `timeout` in seconds, 0 for the runtime's own.
    pub async fn checkpoint_container(
        &self,
        id: &str,
        location: &str,
        timeout: i64,
        limit: Option<Duration>,
    ) -> Result<v1::CheckpointContainerResponse, Status> {
        let mut req = Request::new(v1::CheckpointContainerRequest {
            container_id: id.into(),
            location: location.into(),
            timeout,
        });
        if let Some(limit) = limit {
            // the runtime is to answer first
            req.set_timeout(limit + Duration::from_secs(2));
        }
        self.runtime
            .clone()
            .checkpoint_container(req)
            .await
            .map(tonic::Response::into_inner)
    }

    /// Container events as they happen.
    pub async fn events(&self) -> Result<tonic::Streaming<v1::ContainerEventResponse>, Status> {
        self.runtime
            .clone()
            .get_container_events(v1::GetEventsRequest {})
            .await
            .map(tonic::Response::into_inner)
    }

    /// All that the runtime has for the pod of that uid.
    pub async fn observe(&self, uid: &str) -> Result<Runtime, Status> {
        let selector = [(label::POD_UID.to_owned(), uid.to_owned())];
        let sandboxes = self.list_pod_sandbox(v1::ListPodSandboxRequest {
            filter: Some(v1::PodSandboxFilter {
                label_selector: selector.clone().into(),
                ..Default::default()
            }),
        });
        let containers = self.list_containers(v1::ListContainersRequest {
            filter: Some(v1::ContainerFilter {
                label_selector: selector.into(),
                ..Default::default()
            }),
        });
        let (sandboxes, containers) = tokio::try_join!(sandboxes, containers)?;
        let mut rt = Runtime::default();
        for s in sandboxes.items {
            let req = v1::PodSandboxStatusRequest {
                pod_sandbox_id: s.id,
                verbose: false,
            };
            match self.pod_sandbox_status(req).await {
                Ok(r) => r.status.iter().for_each(|s| rt.merge_sandbox(s)),
                Err(e) if e.code() == Code::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        for c in containers.containers {
            if let Some(s) = self.container(&c.id).await? {
                rt.merge_container(&c.pod_sandbox_id, &s);
            }
        }
        Ok(rt)
    }

    /// One container's status; `None` when the runtime does not know it.
    pub async fn container(&self, id: &str) -> Result<Option<v1::ContainerStatus>, Status> {
        let req = v1::ContainerStatusRequest {
            container_id: id.into(),
            verbose: false,
        };
        match self.container_status(req).await {
            Ok(r) => Ok(r.status),
            Err(e) if e.code() == Code::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}
