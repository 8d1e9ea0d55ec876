//! What the managers add to a container's configuration: devices and what belongs to them, and where it may run.

use podium_cri::v1;

/// Additions to a [`v1::ContainerConfig`].
#[derive(Debug, Default, PartialEq)]
pub(crate) struct RunOptions {
    pub(crate) envs: Vec<(String, String)>,
    pub(crate) mounts: Vec<v1::Mount>,
    pub(crate) devices: Vec<v1::Device>,
    pub(crate) annotations: Vec<(String, String)>,
    pub(crate) cdi_devices: Vec<v1::CdiDevice>,
    /// Processors, as cgroups take them; empty for no restriction.
    pub(crate) cpuset_cpus: String,
    /// Nobody else runs on them: time on them has no bound. Upstream's `DisableCPUQuotaWithExclusiveCPUs`.
    pub(crate) own_cpus: bool,
    /// NUMA nodes to take memory from; empty for no restriction.
    pub(crate) cpuset_mems: String,
}

impl RunOptions {
    /// Adds a variable, unless it is set.
    pub(crate) fn env(&mut self, name: &str, value: &str) {
        if !self.envs.iter().any(|(set, _)| set == name) {
            self.envs.push((name.to_owned(), value.to_owned()));
        }
    }

    /// Adds an annotation, unless there is one of its name.
    pub(crate) fn annotation(&mut self, name: &str, value: &str) {
        if !self.annotations.iter().any(|(set, _)| set == name) {
            self.annotations.push((name.to_owned(), value.to_owned()));
        }
    }

    /// Adds a mount, unless there is one at its path.
    pub(crate) fn mount(&mut self, mount: v1::Mount) {
        if !self.mounts.iter().any(|one| one.container_path == mount.container_path) {
            self.mounts.push(mount);
        }
    }

    /// Adds a device node, unless there is one at its path.
    pub(crate) fn device(&mut self, device: v1::Device) {
        if !self.devices.iter().any(|one| one.container_path == device.container_path) {
            self.devices.push(device);
        }
    }

    /// Adds a CDI device, once.
    pub(crate) fn cdi(&mut self, name: &str) {
        if !self.cdi_devices.iter().any(|one| one.name == name) {
            self.cdi_devices.push(v1::CdiDevice { name: name.to_owned() });
        }
    }

    /// Puts it all into a configuration. What the pod says of a variable, a path or an annotation holds.
    pub(crate) fn apply(self, config: &mut v1::ContainerConfig) {
        let own = |name: &str| config.envs.iter().any(|env| env.key == name);
        let added: Vec<v1::KeyValue> = self
            .envs
            .into_iter()
            .filter(|(name, _)| !own(name))
            .map(|(key, value)| v1::KeyValue { key, value: value.into_bytes() })
            .collect();
        config.envs.splice(0..0, added);
        let taken = |path: &str| config.mounts.iter().any(|mount| mount.container_path == path);
        let added: Vec<v1::Mount> =
            self.mounts.into_iter().filter(|mount| !taken(&mount.container_path)).collect();
        config.mounts.extend(added);
        config.devices.extend(self.devices);
        config.cdi_devices.extend(self.cdi_devices);
        for (key, value) in self.annotations {
            config.annotations.entry(key).or_insert(value);
        }
        let resources = config.linux.get_or_insert_default().resources.get_or_insert_default();
        if !self.cpuset_cpus.is_empty() {
            resources.cpuset_cpus = self.cpuset_cpus;
        }
        if self.own_cpus {
            resources.cpu_quota = -1;
        }
        if !self.cpuset_mems.is_empty() {
            resources.cpuset_mems = self.cpuset_mems;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pod_has_the_last_word() {
        let env = |key: &str, value: &str| v1::KeyValue { key: key.into(), value: value.into() };
        let mount = |path: &str, host: &str| v1::Mount {
            container_path: path.into(),
            host_path: host.into(),
            ..Default::default()
        };
        let mut config = v1::ContainerConfig {
            envs: vec![env("A", "pod")],
            mounts: vec![mount("/a", "/pod")],
            ..Default::default()
        };
        let mut options = RunOptions {
            envs: vec![("A".into(), "device".into()), ("B".into(), "device".into())],
            cpuset_cpus: "2-3".into(),
            ..Default::default()
        };
        for (path, host) in [("/a", "/x"), ("/b", "/y"), ("/b", "/z")] {
            options.mount(mount(path, host));
        }
        options.cdi("v/c=d");
        options.cdi("v/c=d");
        options.apply(&mut config);
        assert_eq!(config.envs, [env("B", "device"), env("A", "pod")]);
        assert_eq!(config.mounts, [mount("/a", "/pod"), mount("/b", "/y")]);
        assert_eq!(config.cdi_devices.len(), 1);
        let resources = config.linux.unwrap().resources.unwrap();
        assert_eq!((resources.cpuset_cpus.as_str(), resources.cpuset_mems.as_str()), ("2-3", ""));
        assert_eq!(resources.cpu_quota, 0);
    }

    #[test]
    fn own_processors_have_no_quota() {
        let linux = v1::LinuxContainerConfig {
            resources: Some(v1::LinuxContainerResources { cpu_quota: 200_000, ..Default::default() }),
            ..Default::default()
        };
        for (own_cpus, quota) in [(true, -1), (false, 200_000)] {
            let mut config = v1::ContainerConfig { linux: Some(linux.clone()), ..Default::default() };
            RunOptions { own_cpus, cpuset_cpus: "2-3".into(), ..Default::default() }.apply(&mut config);
            assert_eq!(config.linux.unwrap().resources.unwrap().cpu_quota, quota);
        }
    }
}
