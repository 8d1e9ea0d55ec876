//! The cgroup driver `systemd`, beside a systemd that is the test's own and makes the groups that it is asked for.

use podium_cri::v1;
use podium_shim::cgroup::Cgroups;
use podium_systemd::fake::{FakeSystemd, Groups};
use podium_systemd::names;

use super::{Fixture, Kind};

/// Units as groups of this machine.
struct Real(Cgroups);

fn group(unit: &str, slice: &str) -> String {
    format!("{}/{unit}", names::expand(slice).expect("a slice"))
}

impl Groups for Real {
    fn begin(&self, unit: &str, slice: &str, processes: &[u32]) {
        let group = group(unit, slice);
        self.0.create(&group).unwrap();
        for process in processes {
            self.0.enter(&group, i32::try_from(*process).unwrap()).unwrap();
        }
    }

    fn end(&self, unit: &str, slice: &str) {
        self.0.remove(&group(unit, slice));
    }
}

/// A life in scopes: how they are asked for, what is in them, and that nothing of them is left.
#[tokio::test(flavor = "multi_thread")]
async fn containers_are_scopes() {
    let cgroups = Cgroups::of_machine().unwrap();
    let Some(fake) = FakeSystemd::start(Real(cgroups.clone())).await else { return };
    let Some(fixture) = Fixture::start_beside(Kind::Podium, Some(fake.systemd())).await else { return };
    let answer = fixture.cri.runtime_config(v1::RuntimeConfigRequest {}).await.unwrap();
    assert_eq!(answer.linux.unwrap().cgroup_driver(), v1::CgroupDriver::Systemd);

    let top = fixture.cgroup().trim_start_matches('/').replace('-', "_");
    let slice = format!("{top}-podx.slice");
    let mut pod = fixture.pod("p");
    let linux = pod.linux.as_mut().unwrap();
    linux.cgroup_parent = format!("/{top}.slice/{slice}");
    let options = linux.security_context.as_mut().unwrap().namespace_options.as_mut().unwrap();
    // One first process for all, which has a group of its own.
    options.pid = v1::NamespaceMode::Pod.into();
    let sandbox = fixture.run_pod(&pod).await;

    let mut config = fixture.script("c", "sleep 1000");
    let linux = config.linux.as_mut().unwrap();
    let options = linux.security_context.as_mut().unwrap().namespace_options.as_mut().unwrap();
    options.pid = v1::NamespaceMode::Pod.into();
    linux.resources = Some(v1::LinuxContainerResources { cpu_shares: 512, ..Default::default() });
    let id = fixture.run(&sandbox, config, &pod).await;
    let (first, own) = (format!("cri-podium-{sandbox}.scope"), format!("cri-podium-{id}.scope"));
    assert_eq!(fake.units().len(), 2);
    // The container is there, and who kept its place is not.
    let processes = cgroups.processes(&format!("/{top}.slice/{slice}/{own}"));
    let command = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let commands: Vec<String> = processes.iter().map(command).collect();
    // The shell may not have become it yet.
    assert!(commands.len() == 1 && commands[0].replace('\0', " ").ends_with("sleep 1000 "), "{commands:?}");

    let resources = v1::LinuxContainerResources { cpu_shares: 1024, ..Default::default() };
    let update = v1::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(resources),
        ..Default::default()
    };
    fixture.cri.update_container_resources(update).await.unwrap();
    fixture.remove(&sandbox).await;
    assert_eq!(fake.units(), Vec::<String>::new());

    let v2 = cgroups.is_v2();
    let shares = |shares: &str, weight: &str| {
        if v2 { format!("CPUWeight={weight}") } else { format!("CPUShares={shares}") }
    };
    let asked = fake.asked();
    let begins = |unit: &str| {
        let begin = format!(
            "start {unit} replace Description=\"container of Kubernetes: {unit}\" Slice=\"{slice}\" Delegate=true "
        );
        asked.iter().position(|line| line.starts_with(&begin)).unwrap_or_else(|| panic!("{unit}: {asked:#?}"))
    };
    let started = &asked[begins(&own)];
    assert!(begins(&first) < begins(&own));
    assert!(started.contains(&shares("512", "59")), "{started}");
    assert!(started.contains("DevicePolicy=\"strict\"") && started.contains("/dev/char/1:3"), "{started}");
    let set = format!("set {own} {}", shares("1024", "100"));
    let rest: Vec<&String> = asked.iter().skip(2).collect();
    assert_eq!(rest, [&set, &format!("stop {own}"), &format!("stop {first}")]);

    // The other driver's parents.
    let error = fixture.cri.run_pod_sandbox(fixture.pod("q"), "").await.unwrap_err().to_string();
    assert!(error.contains("is not a slice, this runtime uses systemd"), "{error}");
    assert!(cgroups.remove(&format!("/{top}.slice")));
    fixture.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_systemd_a_slice_is_refused() {
    let Some(fixture) = Fixture::start(Kind::Podium).await else { return };
    let answer = fixture.cri.runtime_config(v1::RuntimeConfigRequest {}).await.unwrap();
    assert_eq!(answer.linux.unwrap().cgroup_driver(), v1::CgroupDriver::Cgroupfs);
    let mut pod = fixture.pod("p");
    pod.linux.as_mut().unwrap().cgroup_parent = "kubepods-podx.slice".to_owned();
    let error = fixture.cri.run_pod_sandbox(pod, "").await.unwrap_err().to_string();
    assert!(error.contains("is systemd's, this runtime uses cgroupfs"), "{error}");
    fixture.finish().await;
}
