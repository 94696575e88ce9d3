//! What `config --hash` prints.

use sha2::Digest as _;

use super::Service;

/// The digest of what decides whether a container must be replaced: SHA-256,
/// 64 hexadecimal digits, of the service as JSON with sorted keys, without its
/// dependencies, replica count, profiles, build, rules for development and pull
/// policy.
pub fn hash(service: &Service) -> String {
    let mut service = service.clone();
    service.depends_on.clear();
    service.replicas = 0;
    service.profiles.clear();
    service.pull_policy = super::PullPolicy::default();
    service.pull_refresh_after = None;
    service.build = None;
    service.develop = None;
    service.attach = None;
    // The type serialises to the same text each time: its fields are in the
    // order of their declaration and its maps are sorted.
    let text = serde_json::to_vec(&service).unwrap_or_default();
    let digest = sha2::Sha256::digest(&text);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
