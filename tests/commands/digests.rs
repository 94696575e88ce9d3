//! `config` with the digests that registries have for images.

use super::stack;

#[test]
fn digests_are_asked_of_registries() {
    let Some(world) = stack("name: d\nservices: {web: {image: busybox}}\n") else {
        return;
    };
    let host = world.registry(&["busybox"]);
    let file = format!(
        "name: d
services:
  web: {{image: '{host}/busybox:latest', command: 'true'}}
  same: {{image: '{host}/busybox'}}
"
    );
    world.write("compose.yaml", file);
    let text = super::out(&world, &["config", "--resolve-image-digests", "--format", "json"]);
    let config: serde_json::Value = serde_json::from_str(&text).unwrap();
    let image = config["services"]["web"]["image"].as_str().unwrap();
    let (name, digest) = image.split_once("@sha256:").unwrap();
    assert_eq!(
        (name, digest.len()),
        (format!("{host}/busybox:latest").as_str(), 64)
    );
    assert_eq!(config["services"]["same"]["image"], image);
    assert!(text.contains("\"command\""));

    // An override file with nothing else, which then counts.
    let lock = super::out(&world, &["config", "--lock-image-digests"]);
    assert!(lock.contains(image) && !lock.contains("command"), "{lock}");
    world.write("lock.yaml", &lock);
    let locked = super::out(
        &world,
        &["-f", "compose.yaml", "-f", "lock.yaml", "config", "--images"],
    );
    assert_eq!(locked, format!("{image}\n{image}\n"));

    world.write(
        "compose.yaml",
        format!("services: {{web: {{image: '{host}/nothing'}}}}\n"),
    );
    let missing = world.run(&["config", "--resolve-image-digests"]);
    assert!(
        missing.code == 1 && missing.stderr.contains("nothing"),
        "{}",
        missing.stderr
    );
}
