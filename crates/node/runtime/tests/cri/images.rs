//! Images.

use podium_cri::v1;

use super::fixture::IMAGE;
use super::{Fixture, Kind};

fn spec(name: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: name.to_owned(), ..Default::default() }
}

pub(crate) async fn life_of_an_image(fixture: &Fixture) {
    let image = fixture.cri.image_status(spec(IMAGE)).await.unwrap().expect("the image");
    assert_eq!(image.repo_tags, [IMAGE]);
    assert!(image.id.starts_with("sha256:") && image.size > 100_000, "{image:?}");
    assert!(image.repo_digests.iter().all(|one| one.starts_with("example.com/podium/test@sha256:")));
    for name in [&image.id, &image.id["sha256:".len()..]] {
        assert_eq!(fixture.cri.image_status(spec(name)).await.unwrap().unwrap().id, image.id);
    }
    assert!(fixture.cri.image_status(spec("example.com/absent:v1")).await.unwrap().is_none());
    let listed = fixture.cri.list_images().await.unwrap();
    assert!(listed.iter().any(|one| one.id == image.id));
    // Loaded again, nothing changes.
    podium_cri::import_image(&fixture.endpoint(), &fixture.path("image.tar")).await.unwrap();
    assert_eq!(fixture.cri.list_images().await.unwrap().len(), listed.len());
    // A running container keeps what it stands on.
    let pod = fixture.pod("p");
    let sandbox = fixture.run_pod(&pod).await;
    let id = fixture.run(&sandbox, fixture.script("c", "sleep 1000"), &pod).await;
    if fixture.kind == Kind::Podium {
        for _ in 0..2 {
            fixture.cri.remove_image(IMAGE).await.unwrap();
        }
        assert!(fixture.cri.image_status(spec(IMAGE)).await.unwrap().is_none());
        assert_eq!(fixture.exec(&id, "cat /etc/passwd > /dev/null; echo fine").await.1, "fine\n");
        assert!(fixture.create(&sandbox, fixture.script("d", "true"), &pod).await.is_err());
        podium_cri::import_image(&fixture.endpoint(), &fixture.path("image.tar")).await.unwrap();
    }
    assert_eq!(fixture.cri.image_status(spec(IMAGE)).await.unwrap().unwrap().id, image.id);
}
