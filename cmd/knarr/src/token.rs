//! `knarr token`: what machines join the cluster with.

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use k8s_openapi::{api::core::v1::Secret, jiff::{SignedDuration, Timestamp}};
use knarr_pki::{BootstrapToken, ca_hash};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
};

use crate::{client, layout::Layout, node::membership, say};

const TYPE: &str = "bootstrap.kubernetes.io/token";

/// What can be done with tokens.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Make a token and print it
    Create {
        /// The token [default: a random one]
        #[arg(long)]
        token: Option<BootstrapToken>,
        /// Hours it is good for; 0: for ever
        #[arg(long, default_value_t = 24)]
        ttl_hours: u32,
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
        /// Print the command to run on the machine that joins instead
        #[arg(long)]
        print_join_command: bool,
    },
    /// List the tokens; their secret halves are not shown
    List,
    /// Remove tokens
    Delete {
        /// Tokens or their public halves
        #[arg(required = true)]
        tokens: Vec<String>,
    },
}

/// Runs one command.
///
/// # Errors
/// If the cluster is not reached or refuses.
pub async fn run(layout: &Layout, command: Command) -> Result<()> {
    let client = client::administrator(layout).await?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "kube-system");
    match command {
        Command::Create { token, ttl_hours, description, print_join_command } => {
            let token = match token {
                Some(token) => token,
                None => BootstrapToken::generate().map_err(anyhow::Error::msg)?,
            };
            let ends = Timestamp::now() + SignedDuration::from_hours(i64::from(ttl_hours));
            let ends = (ttl_hours != 0).then(|| ends.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
            let secret = membership::secret(&token, ends.as_deref(), &description);
            secrets.create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
            say(&if print_join_command { join(client, &token).await? } else { token.reveal() });
        }
        Command::List => {
            say(&format!("{:<8} {:<22} DESCRIPTION", "TOKEN", "EXPIRES"));
            let of_type = ListParams::default().fields(&format!("type={TYPE}"));
            for secret in secrets.list(&of_type).await? {
                let field = |name: &str| {
                    let data = secret.data.as_ref().and_then(|d| d.get(name));
                    data.map(|v| String::from_utf8_lossy(&v.0).into_owned()).unwrap_or_default()
                };
                let (id, ends) = (field("token-id"), field("expiration"));
                let ends = if ends.is_empty() { "never" } else { &ends };
                say(&format!("{id:<8} {ends:<22} {}", field("description")));
            }
        }
        Command::Delete { tokens } => {
            for token in tokens {
                let id = token.split('.').next().unwrap_or_default();
                if id.len() != 6 {
                    bail!("{id:?} is not the public half of a token");
                }
                let name = format!("bootstrap-token-{id}");
                secrets.delete(&name, &DeleteParams::default()).await.context("cannot remove it")?;
                say(&format!("removed {id}"));
            }
        }
    }
    Ok(())
}

/// The command that joins a machine to the cluster.
async fn join(client: Client, token: &BootstrapToken) -> Result<String> {
    let maps: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(client, "kube-public");
    let map = maps.get("cluster-info").await?;
    let kubeconfig = map.data.unwrap_or_default().remove("kubeconfig").unwrap_or_default();
    let (server, ca) = client::cluster(&kubeconfig).context("the cluster does not describe itself")?;
    let hash = ca_hash(&ca).context("the cluster's authority is no certificate")?;
    Ok(format!("knarr agent --server {server} --token {} --ca-hash {hash}", token.reveal()))
}
