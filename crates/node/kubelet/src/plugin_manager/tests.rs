//! Which sockets are registered, and the conversation with plugins that tests play.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::{
    PluginHandler, PluginManager,
    decide::{Known, SocketId, decide},
};
use crate::testing::{eventually, plugin::FakePlugin};

const LIMIT: Duration = Duration::from_secs(10);

fn sockets(list: &[(&str, u64)]) -> BTreeMap<PathBuf, SocketId> {
    list.iter().map(|(path, inode)| (PathBuf::from(path), SocketId { inode: *inode, made: (0, 0) })).collect()
}

fn names(list: &[PathBuf]) -> Vec<&str> {
    list.iter().filter_map(|path| path.to_str()).collect()
}

#[test]
fn sockets_come_go_and_are_replaced() {
    let mut known: Known<&str> = Known::default();
    let start = Instant::now();
    let both = sockets(&[("a", 1), ("b", 2)]);
    let first = decide(&known, &both, start);
    assert_eq!((first.gone.len(), first.register.len(), first.next), (0, 2, None));
    known.note(Path::new("a"), both[Path::new("a")], Some("plugin"), start);
    known.note(Path::new("b"), both[Path::new("b")], None, start);
    // One is in use, the other is tried again later, and later still.
    let pause = Duration::from_millis(500);
    let second = decide(&known, &both, start);
    assert_eq!((second.register.len(), second.next), (0, Some(start + pause)));
    let third = decide(&known, &both, start + pause);
    assert_eq!(third.register.iter().map(|(path, _)| path.as_path()).collect::<Vec<_>>(), [Path::new("b")]);
    known.note(Path::new("b"), both[Path::new("b")], None, start + pause);
    assert_eq!(decide(&known, &both, start + pause).next, Some(start + pause * 3));
    // A socket made anew is another plugin, and is tried at once.
    let anew = sockets(&[("a", 3), ("b", 4)]);
    let fourth = decide(&known, &anew, start + pause);
    assert_eq!((names(&fourth.gone), fourth.register.len()), (vec!["a", "b"], 2));
    assert_eq!((known.forget(Path::new("a")), known.forget(Path::new("b"))), (Some("plugin"), None));
    assert_eq!(names(&decide(&known, &sockets(&[]), start).gone), Vec::<&str>::new());
}

/// Notes what it is told.
#[derive(Default)]
struct Noting {
    told: Mutex<Vec<String>>,
}

impl PluginHandler for Noting {
    fn validate(&self, name: &str, _: &Path, versions: &[String]) -> Result<(), String> {
        if versions.iter().any(|version| version == "v1") {
            Ok(())
        } else {
            Err(format!("{name} is too old"))
        }
    }

    fn register<'a>(
        &'a self,
        name: &'a str,
        endpoint: &'a Path,
        _: &'a [String],
    ) -> BoxFuture<'a, Result<(), String>> {
        let file = endpoint.file_name().unwrap_or_default().to_string_lossy();
        self.told.lock().push(format!("+{name} {file}"));
        Box::pin(std::future::ready(Ok(())))
    }

    fn deregister(&self, name: &str, _: &Path) {
        self.told.lock().push(format!("-{name}"));
    }
}

#[tokio::test]
async fn plugins_are_found_by_their_sockets() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let (csi, dra) = (Arc::new(Noting::default()), Arc::new(Noting::default()));
    let manager =
        PluginManager::new(root.to_owned()).handle("CSIPlugin", csi.clone()).handle("DRAPlugin", dra.clone());
    let told = |noting: &Arc<Noting>, want: &'static [&'static str]| {
        let noting = noting.clone();
        async move {
            eventually("the handler is told", LIMIT, || async {
                let told = noting.told.lock().clone();
                if told == want { Ok(()) } else { Err(format!("{told:?}")) }
            })
            .await;
        }
    };
    // One is there before we look.
    let early = FakePlugin::serve(&root.join("early.sock"), "CSIPlugin", "csi.example.com", &["v1"]);
    let test = async {
        told(&csi, &["+csi.example.com early.sock"]).await;
        early.registered(LIMIT).await.unwrap();
        // Others come later, one of them in a directory of its own.
        std::fs::create_dir(root.join("driver")).unwrap();
        let late = FakePlugin::serve(&root.join("driver/late.sock"), "DRAPlugin", "dra.example.com", &["v1"]);
        told(&dra, &["+dra.example.com late.sock"]).await;
        late.registered(LIMIT).await.unwrap();
        for (type_, version, text) in [
            ("CSIPlugin", "v0", "RegisterPlugin error -- plugin validation failed with err: x is too old"),
            ("Other", "v1", "RegisterPlugin error -- no handler registered for plugin type: Other at socket"),
        ] {
            let refused = FakePlugin::serve(&root.join("refused.sock"), type_, "x", &[version]);
            let error = refused.registered(LIMIT).await.unwrap_err();
            assert!(error.starts_with(text), "{error}");
            drop(refused);
            std::fs::remove_file(root.join("refused.sock")).unwrap();
        }
        // One restarts: it has made its socket anew.
        let again = FakePlugin::serve(&root.join("early.sock"), "CSIPlugin", "csi.example.com", &["v1"]);
        again.registered(LIMIT).await.unwrap();
        std::fs::remove_dir_all(root.join("driver")).unwrap();
        told(&dra, &["+dra.example.com late.sock", "-dra.example.com"]).await;
        told(&csi, &["+csi.example.com early.sock", "-csi.example.com", "+csi.example.com early.sock"]).await;
    };
    tokio::select! {
        ended = manager.run() => panic!("the manager ended: {ended:?}"),
        () = test => {}
    }
}
