//! As many layers as the kernel takes.

use std::path::PathBuf;

use rcompose::image::ImageStore;

use super::pull;
use super::support::registry::{FakeRegistry, archive};
use super::support::{World, images};

/// An image of 500 layers runs, and one of more is refused before anything is
/// fetched.
#[test]
fn five_hundred_layers_run_and_more_are_refused() {
    let Some(world) = World::new() else { return };
    let registry = FakeRegistry::start(|_, answer| answer);
    let store = ImageStore::open(world.state().join("images"))
        .with_docker_config(world.work().join("config.json"))
        .with_settings_below(world.work());
    // The lowest layer is what runs.
    let busybox = pull(&store, &format!("oci:{}", images().join("busybox").display())).unwrap();
    let mut base = Vec::new();
    ImageStore::export(&busybox.layers, &mut base).unwrap();
    let mut layers = vec![base];
    for number in 1..500 {
        let own = format!("layers/{number}");
        layers.push(archive(&[
            ("layers/", b""),
            (&own, b"x"),
            ("last", number.to_string().as_bytes()),
        ]));
    }
    let (reference, _) = registry.image("many", &layers);
    let image = pull(&store, &reference).unwrap();
    assert_eq!(image.layers.len(), 500);
    world.write(
        "compose.yaml",
        format!(
            "name: many\nservices:\n  app:\n    image: {reference}\n    command: [sh, -c, 'ls /layers | wc -l; cat /last; touch /new']\n"
        ),
    );
    let told = world.run(&["up", "--no-log-prefix", "--abort-on-container-exit"]);
    assert!(told.stdout.contains("499\n499"), "{told:?}");
    let folders = image.layers.iter().map(PathBuf::as_path);
    assert!(folders.clone().all(|folder| folder.is_dir()));
    // What it changed becomes the 501st: refused, and nothing is left of it.
    let refused = world.run(&["container", "commit", "many-app-1", "made:1"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("500"), "{refused:?}");
    world.run(&["down"]).ok();

    layers.push(archive(&[("one-more", b"x")]));
    let (reference, digests) = registry.image("too-many", &layers);
    let error = pull(&store, &reference).unwrap_err().to_string();
    assert!(error.contains("more than 500 layers"), "{error}");
    assert_eq!(registry.count(&digests[500]), 0, "nothing is fetched for it");
}
