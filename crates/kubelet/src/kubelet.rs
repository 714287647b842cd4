//! The node's driver: one task per pod, fed from the API and from the runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use kybern_api::Object;
use kybern_api::core::v1::{Node, Pod, Service};
use kybern_client::events::EventRecorder;
use kybern_client::{Changes, Client, Informer, ListOptions, Store};
use kybern_cri::{ContainerEvent, ContainerEventType, CriError, ImageService, RuntimeService};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::image::pulled::PulledImages;
use crate::node::{csi, lease, machine, reporter};
use crate::orphans::{self, Cleaner, Leftovers, RuntimePod};
use crate::pod::config::NodeFacts;
use crate::pod::status::NodeView;
use crate::pod::{admit, dns, spec};
use crate::qos::QosCgroups;
use crate::references::ReferenceCache;
use crate::server::{self, PodTable};
use crate::shared::{Events, Shared};
use crate::volume::claims::Holders;
use crate::worker::{self, Entry, Handle};

/// Why a kubelet does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    #[error("cannot make the kubelet's directory {path}: {cause}; choose another with --root-dir")]
    Directory { path: PathBuf, cause: std::io::Error },
    #[error("the container runtime does not answer: {0}")]
    Runtime(CriError),
    #[error("cannot serve the kubelet's API: {0}")]
    Server(#[from] server::ServerError),
}

/// Runs a node until `shutdown`. Containers outlive it; the next run takes them over.
pub async fn run(
    config: Config,
    client: Client,
    runtime: Arc<dyn RuntimeService>,
    images: Arc<dyn ImageService>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), KubeletError> {
    let pods_dir = config.root_dir.join("pods");
    for dir in [&config.root_dir, &pods_dir] {
        let made = kybern_linux::files::make_dirs(dir, 0o750);
        made.map_err(|cause| KubeletError::Directory { path: dir.clone(), cause })?;
    }
    let mut events = runtime.container_events();
    let found = orphans::list(runtime.as_ref()).await.map_err(KubeletError::Runtime)?;
    let name = runtime.version().await.map_err(KubeletError::Runtime)?.runtime_name;
    let shared = Arc::new(share(config, client, runtime, images, name));
    let options = ListOptions::fields(format!("spec.nodeName={}", shared.config.node_name));
    let pods: Store<Pod> = Informer::new(shared.client.clone(), options).spawn();
    let options = ListOptions::fields(format!("metadata.name={}", shared.config.node_name));
    let nodes: Store<Node> = Informer::new(shared.client.clone(), options).spawn();
    let table = PodTable::default();
    let mut tasks = JoinSet::new();
    if let Some(server) = shared.config.server.clone() {
        let server = server::Server::bind(server, shared.clone(), table.clone()).await?;
        tasks.spawn(server.run());
    }
    tasks.spawn(reporter::run(shared.clone()));
    tasks.spawn(lease::run(shared.clone(), nodes.clone()));
    tasks.spawn(csi::run(shared.clone(), nodes.clone()));
    tasks.spawn(crate::image::gc::run(shared.clone()));
    let cleaner = Cleaner::default();
    tasks.spawn(cleaner.clone().run(shared.clone()));
    let (ended_tx, mut ended) = mpsc::channel(64);
    let qos = QosCgroups::new(shared.cgroups.clone(), &shared.config.cgroup_root, shared.machine.milli_cpus);
    let mut driver = Driver {
        qos,
        shared,
        nodes,
        pods: pods.clone(),
        found,
        handles: BTreeMap::new(),
        done: BTreeSet::new(),
        cleaner: cleaner.clone(),
        synced: false,
        ended: ended_tx,
        table,
    };
    let mut changes = pods.subscribe();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            change = changes.changed() => {
                match change {
                    Changes::Resync => driver.resync(),
                    Changes::Batch(batch) => {
                        for change in batch {
                            match (&change.old, &change.new) {
                                (_, Some(pod)) => driver.update(pod.clone()),
                                (Some(pod), None) => driver.remove(pod),
                                (None, None) => {}
                            }
                        }
                    }
                }
                driver.share_cpu();
                if !std::mem::replace(&mut driver.synced, true) {
                    driver.found.clear();
                    driver.sweep().await;
                }
            }
            event = events.recv() => match event {
                Some(event) => driver.dispatch(event),
                None => {
                    // The runtime dropped a reader that was too slow: look at everything again.
                    events = driver.shared.runtime.container_events();
                    driver.handles.values().for_each(|handle| handle.resync.notify_one());
                    driver.sweep().await;
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            },
            Some(uid) = ended.recv() => {
                driver.ended(&uid);
                driver.share_cpu();
            }
        }
    }
}

fn share(
    config: Config,
    client: Client,
    runtime: Arc<dyn RuntimeService>,
    images: Arc<dyn ImageService>,
    runtime_name: String,
) -> Shared {
    let client = client.with_user_agent("kubelet/v1.35.0 (linux/amd64)");
    let machine = machine::read(&config.root_dir);
    let resolver = dns::parse_resolv_conf(&std::fs::read_to_string(&config.resolv_conf).unwrap_or_default());
    let cgroups = kybern_linux::cgroup::Cgroups::detect().ok().filter(|_| config.manage_cgroups);
    Shared {
        pulled: PulledImages::open(&config.root_dir.join("image_manager")),
        references: ReferenceCache::new(client.clone()),
        holders: Holders::default(),
        services: Informer::<Service>::new(client.clone(), ListOptions::default()).spawn(),
        events: Events::new(EventRecorder::new(client.clone(), "kubelet", &config.node_name)),
        view: NodeView { host_ips: config.node_ips.iter().map(ToString::to_string).collect(), runtime: runtime_name },
        facts: NodeFacts {
            pod_logs: config.pod_logs_dir.to_string_lossy().into_owned(),
            cgroup_root: config.cgroup_root.clone(),
            seccomp_root: config.root_dir.join("seccomp").to_string_lossy().into_owned(),
            memory_capacity_bytes: machine.memory_bytes,
            log_rotation: config.log_rotation,
        },
        resolver,
        cgroups,
        leftovers: Leftovers::default(),
        machine,
        client,
        runtime,
        images,
        config,
    }
}

struct Driver {
    qos: QosCgroups,
    shared: Arc<Shared>,
    nodes: Store<Node>,
    pods: Store<Pod>,
    /// What ran at the start and has no task yet.
    found: BTreeMap<String, RuntimePod>,
    handles: BTreeMap<String, Handle>,
    /// Pods whose task has ended while the API still knows them.
    done: BTreeSet<String>,
    cleaner: Cleaner,
    /// The API's pods are known: what belongs to none of them is to be removed.
    synced: bool,
    ended: mpsc::Sender<String>,
    table: PodTable,
}

impl Driver {
    fn resync(&mut self) {
        let pods = self.pods.list();
        let known: BTreeSet<String> = pods.iter().map(|pod| spec::uid(pod).to_owned()).collect();
        for (uid, handle) in &self.handles {
            if !known.contains(uid) {
                handle.desired.send_modify(|desired| desired.gone = true);
            }
        }
        self.done.retain(|uid| known.contains(uid));
        pods.into_iter().for_each(|pod| self.update(pod));
    }

    fn update(&mut self, pod: Arc<Pod>) {
        let uid = spec::uid(&pod).to_owned();
        if let Some(handle) = self.handles.get(&uid) {
            handle.desired.send_modify(|desired| desired.pod = pod);
            return;
        }
        if self.done.contains(&uid) {
            return;
        }
        let key = pod.key();
        for (other, handle) in &self.handles {
            if handle.desired.borrow().pod.key() == key && *other != uid {
                handle.desired.send_modify(|desired| desired.gone = true);
            }
        }
        let ids = self.found.remove(&uid).unwrap_or_default().ids;
        // Only a newcomer can be refused: what has once been taken stays.
        let new = ids.sandboxes.is_empty() && spec::start_time(&pod).is_none() && !spec::is_deleting(&pod);
        let refused = if new { self.admit(&pod) } else { None };
        if let Some(refused) = &refused {
            self.shared.events.warning(&pod, None, &refused.reason, refused.message.clone());
        }
        let handle = worker::spawn(self.shared.clone(), Entry { pod, ids, refused }, self.ended.clone());
        self.table.insert(&uid, handle.view.clone());
        self.handles.insert(uid, handle);
    }

    fn admit(&self, pod: &Pod) -> Option<crate::pod::memory::Failure> {
        let node = self.nodes.get(&self.shared.config.node_name)?;
        let others: Vec<Arc<Pod>> = self.handles.values().map(|handle| handle.desired.borrow().pod.clone()).collect();
        admit::admit(pod, &others, &node)
    }

    fn remove(&mut self, pod: &Pod) {
        let uid = spec::uid(pod);
        self.done.remove(uid);
        if let Some(handle) = self.handles.get(uid) {
            handle.desired.send_modify(|desired| desired.gone = true);
        }
    }

    fn share_cpu(&mut self) {
        if self.shared.cgroups.is_some() {
            self.qos.update(self.handles.values().map(|handle| handle.desired.borrow().pod.clone()));
        }
    }

    fn dispatch(&mut self, event: ContainerEvent) {
        let Some(handle) = self.handles.get(&event.pod_uid) else {
            // Something was made for a pod whose task has ended.
            let made = matches!(event.kind, ContainerEventType::Created | ContainerEventType::Started);
            if made && self.synced {
                self.cleaner.clean(&event.pod_uid, None);
            }
            return;
        };
        if handle.runtime.try_send(event).is_err() {
            handle.resync.notify_one();
        }
    }

    fn ended(&mut self, uid: &str) {
        let Some(handle) = self.handles.remove(uid) else { return };
        self.table.remove(uid);
        let pod = handle.desired.borrow().pod.clone();
        self.cleaner.clean(uid, Some(pod.clone()));
        if self.pods.get(&pod.key()).is_some_and(|now| spec::uid(&now) == uid) {
            self.done.insert(uid.to_owned());
        }
    }

    /// Has everything removed that the runtime or the disk holds of pods that no task answers for.
    async fn sweep(&mut self) {
        if !self.synced {
            return;
        }
        // Looked at before the tasks are: what a new task makes is not among it.
        match orphans::unknown(&self.shared, |uid| self.handles.contains_key(uid)).await {
            Ok(unknown) => unknown.iter().for_each(|uid| self.cleaner.clean(uid, None)),
            Err(error) => tracing::warn!(%error, "cannot look for what is left of pods"),
        }
    }
}
