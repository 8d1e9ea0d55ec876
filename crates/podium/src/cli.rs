//! The command line.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::component;

/// Kubernetes in one binary: start a cluster in a second, use it with the kubectl you have.
#[derive(Debug, Parser)]
#[command(name = "podium", version, arg_required_else_help = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the cluster on this machine
    Up(Up),
    /// Stop the daemon; pods keep running unless --all is given
    Down(Down),
    /// Show whether the cluster runs, and what on it
    Status(Data),
    /// Make this machine one more node of a cluster that runs elsewhere
    Node(crate::join::Flags),
    /// Run only the API server and its store
    Server(Box<component::server::Flags>),
    /// Run only the controllers
    ControllerManager(Box<component::controller_manager::Flags>),
    /// Run only the scheduler
    Scheduler(component::scheduler::Flags),
    /// Run only the kubelet
    Kubelet(Box<component::kubelet::Flags>),
    /// Run only the Service proxy
    Proxy(component::proxy::Flags),
    /// Print the administrator's kubeconfig, or one for another user
    Kubeconfig(Kubeconfig),
    /// Delete the cluster and everything in it
    Reset(Reset),
    /// Work with the container images of this node
    Image(Image),
    /// Save what the API server stores in a file, or put it into another store
    #[command(subcommand)]
    Store(Box<crate::store::StoreCommand>),
}

/// Which cluster.
#[derive(Clone, Debug, Args)]
pub(crate) struct Data {
    /// Directory that holds everything of this cluster
    #[arg(long, value_name = "DIR", default_value = "/var/lib/podium", env = "PODIUM_DATA_DIR")]
    pub(crate) data_dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) data: Data,
    /// Port of the API server [default: 6443, or what the cluster was made with]
    #[arg(long, value_name = "N")]
    pub(crate) port: Option<u16>,
    /// Return as soon as the cluster is ready and leave it running in the background
    #[arg(long)]
    pub(crate) detach: bool,
    /// Name of this machine's Node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Address of this node [default: the one the default route leaves by]
    #[arg(long, value_name = "IP")]
    pub(crate) node_ip: Option<IpAddr>,
    /// Addresses of pods [default: 10.244.0.0/16, or the next range no other cluster here uses]
    #[arg(long, value_name = "CIDR")]
    pub(crate) pod_cidr: Option<String>,
    /// Addresses of Services [default: 10.96.0.0/12, or the next range no other cluster here uses]
    #[arg(long, value_name = "CIDR")]
    pub(crate) service_cidr: Option<String>,
    /// The container runtime: `podium` for the one built in, `containerd` for a containerd of our own, or the CRI socket of
    /// one that runs already [default: podium]
    #[arg(long, value_name = "SOCKET", env = "PODIUM_CONTAINER_RUNTIME")]
    pub(crate) container_runtime_endpoint: Option<String>,
    /// A KubeletConfiguration of kubelet.config.k8s.io/v1beta1, read at each start; none again with '' [default: the file of the
    /// last start]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubelet_config: Option<OsString>,
    /// What goes to podium.log: error, warn, info, debug, or per module as in podium_kubelet=debug
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "PODIUM_LOG")]
    pub(crate) log: String,
}

#[derive(Debug, Args)]
pub(crate) struct Down {
    #[command(flatten)]
    pub(crate) data: Data,
    /// Stop the pods and the container runtime too
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Reset {
    #[command(flatten)]
    pub(crate) data: Data,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Kubeconfig {
    #[command(flatten)]
    pub(crate) data: Data,
    /// URL of the API server [default: where it listens on this machine]
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// Make a client certificate for this user, such as system:kube-scheduler
    #[arg(long, value_name = "NAME")]
    pub(crate) client_name: Option<String>,
    /// The user's group
    #[arg(long, value_name = "GROUP", requires = "client_name")]
    pub(crate) org: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Image {
    #[command(subcommand)]
    pub(crate) command: ImageCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Load a Docker or OCI image archive
    Load {
        /// The archive, as `docker save` writes it
        file: PathBuf,
        #[command(flatten)]
        data: Data,
    },
    /// Pull an image from its registry
    Pull {
        /// Its name
        image: String,
        #[command(flatten)]
        data: Data,
    },
    /// Save an image as an archive that Docker and OCI tools read (podium's own runtime only)
    Save {
        /// Its name or id
        image: String,
        /// A file to make
        file: PathBuf,
        #[command(flatten)]
        data: Data,
    },
    /// Give an image another name (podium's own runtime only)
    Tag {
        /// Its name or id
        image: String,
        /// The other name
        name: String,
        #[command(flatten)]
        data: Data,
    },
    /// Remove the images that no container uses, also loaded ones, which the kubelet leaves alone (podium's own runtime only)
    Prune {
        #[command(flatten)]
        data: Data,
    },
    /// List images
    Ls {
        #[command(flatten)]
        data: Data,
    },
    /// Remove an image
    Rm {
        /// Its name or id
        image: String,
        #[command(flatten)]
        data: Data,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let parsed =
            Cli::try_parse_from(["podium", "up", "--detach", "--port", "7443", "--data-dir", "/x"]).unwrap();
        let Command::Up(up) = parsed.command else { panic!("not up") };
        assert!(up.detach);
        assert_eq!((up.port, up.data.data_dir), (Some(7443), PathBuf::from("/x")));
    }
}
