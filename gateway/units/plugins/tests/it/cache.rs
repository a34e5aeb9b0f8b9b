//! Compiled components on disk: what is found again, and what is never run.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use serde_json::json;
use sluice_plugins::{CacheBounds, ComponentSource, PluginConfig};
use sluice_vocabulary::ports::Inspect as _;

use crate::world::{World, plugin, prebuilt, request, visit};

/// A folder that a gateway keeps its state in.
struct State(tempfile::TempDir);

impl State {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn components(&self) -> PathBuf {
        self.0.path().join("components")
    }

    /// The files of compiled components, oldest name first.
    fn files(&self) -> Vec<PathBuf> {
        let paths = fs::read_dir(self.components()).unwrap().map(|entry| entry.unwrap().path());
        let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|end| end == "component")).collect();
        paths.sort();
        paths
    }

    /// A new process, as far as the unit can tell.
    async fn world(&self) -> World {
        self.world_within(CacheBounds::default()).await
    }

    async fn world_within(&self, bounds: CacheBounds) -> World {
        let world = World::new().await;
        world.handle.keep_in(Some(self.0.path()), bounds);
        world
    }

    /// One that was compiled by an earlier process.
    async fn filled(&self) -> PathBuf {
        serves(&self.world().await, false).await;
        self.files().pop().unwrap()
    }
}

fn region() -> PluginConfig {
    plugin("add_region_rust.wasm", json!({ "region": "eu-1" }))
}

/// The same plugin under another digest.
fn variant(number: u8) -> PluginConfig {
    let mut bytes = fs::read(prebuilt("add_region_as.wasm")).unwrap();
    // A custom section of the name `n`, with one byte in it.
    bytes.extend([0, 3, 1, b'n', number]);
    PluginConfig { config: json!({ "region": "eu-1" }), ..PluginConfig::new(ComponentSource::bytes(bytes)) }
}

/// Loads the plugin and sends a request through it; the component comes from the cache, or not.
async fn serves(world: &World, from_cache: bool) {
    let chain = world.chain(region()).await;
    let (head, _) = chain.on_request(request(&[]), &mut visit()).await;
    assert_eq!(head.headers["x-region"], "eu-1");
    assert_eq!(world.handle.inspect()["plugins"]["p"]["from_cache"], from_cache);
    assert_eq!(world.metric("cache_hits_total"), f64::from(u8::from(from_cache)));
    assert_eq!(world.metric("compile_duration_seconds_count"), f64::from(u8::from(!from_cache)));
}

/// What was done to the file leads to its removal for that reason, to a compilation, and to a sound file in its place.
async fn is_discarded(state: &State, file: &Path, reason: &str) {
    let world = state.world().await;
    serves(&world, false).await;
    assert_eq!(world.metric(&format!("cache_discarded_total{{reason=\"{reason}\"}}")), 1.0, "{reason}");
    assert_eq!(world.metric("cache_misses_total"), 1.0);
    let metadata = fs::symlink_metadata(file).unwrap();
    assert!(metadata.is_file() && metadata.mode() & 0o777 == 0o600, "{metadata:?}");
    serves(&state.world().await, true).await;
}

#[tokio::test]
async fn a_restart_compiles_nothing() {
    let state = State::new();
    state.filled().await;
    serves(&state.world().await, true).await;
}

#[tokio::test]
async fn what_is_kept_is_for_our_own_eyes() {
    let state = State::new();
    let file = state.filled().await;
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&state.components()), 0o700);
    assert_eq!((mode(&file), mode(&state.components().join("key"))), (0o600, 0o600));
    let drafts = fs::read_dir(state.components())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'));
    assert_eq!(drafts.count(), 0);
}

#[tokio::test]
async fn without_a_state_folder_nothing_is_kept() {
    let world = World::new().await;
    serves(&world, false).await;
    assert_eq!(world.metric("cache_misses_total"), 0.0);
    assert!(world.handle.inspect()["sandbox"]["cache"].is_null());
}

#[tokio::test]
async fn a_torn_file_is_compiled_anew() {
    let state = State::new();
    let file = state.filled().await;
    let whole = fs::read(&file).unwrap();
    for length in [0, 7, 32, 33, whole.len() / 2, whole.len() - 1] {
        fs::write(&file, &whole[..length]).unwrap();
        is_discarded(&state, &file, "damaged").await;
    }
}

#[tokio::test]
async fn a_flipped_bit_anywhere_is_found() {
    let state = State::new();
    let file = state.filled().await;
    let whole = fs::read(&file).unwrap();
    for place in [0, 31, 32, 500, whole.len() / 2, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[place] ^= 1 << (place % 8);
        fs::write(&file, damaged).unwrap();
        is_discarded(&state, &file, "damaged").await;
    }
}

#[tokio::test]
async fn a_file_of_another_gateway_is_not_run() {
    let (state, other) = (State::new(), State::new());
    let (file, foreign) = (state.filled().await, other.filled().await);
    assert_eq!(file.file_name(), foreign.file_name());
    fs::copy(foreign, &file).unwrap();
    is_discarded(&state, &file, "damaged").await;
}

#[tokio::test]
async fn a_file_under_the_name_of_another_is_not_run() {
    let state = State::new();
    let file = state.filled().await;
    let world = state.world().await;
    world.load(&[("v", variant(0))]).await.unwrap();
    let other = state.files().into_iter().find(|path| *path != file).unwrap();
    fs::copy(other, &file).unwrap();
    is_discarded(&state, &file, "damaged").await;
}

#[tokio::test]
async fn a_file_that_others_may_write_or_that_is_a_link_is_not_run() {
    let state = State::new();
    let file = state.filled().await;
    for mode in [0o622, 0o660, 0o644] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        is_discarded(&state, &file, "foreign").await;
    }
    let aside = state.0.path().join("aside");
    fs::rename(&file, &aside).unwrap();
    symlink(&aside, &file).unwrap();
    is_discarded(&state, &file, "foreign").await;
    assert!(aside.is_file(), "what the link pointed to is left alone");
    // Only the superuser can give a file away.
    if fs::metadata(&file).unwrap().uid() == 0 {
        std::os::unix::fs::chown(&file, Some(65_534), None).unwrap();
        is_discarded(&state, &file, "foreign").await;
    }
}

#[tokio::test]
async fn a_folder_that_others_may_look_into_is_not_used() {
    let state = State::new();
    state.filled().await;
    for mode in [0o777, 0o770, 0o755] {
        fs::set_permissions(state.components(), fs::Permissions::from_mode(mode)).unwrap();
        let world = state.world().await;
        serves(&world, false).await;
        assert!(world.handle.inspect()["sandbox"]["cache"].is_null());
    }
    fs::set_permissions(state.components(), fs::Permissions::from_mode(0o700)).unwrap();
    serves(&state.world().await, true).await;
}

#[tokio::test]
async fn a_lost_key_costs_a_compilation_and_nothing_else() {
    let state = State::new();
    let file = state.filled().await;
    let key = state.components().join("key");
    fs::remove_file(&key).unwrap();
    is_discarded(&state, &file, "damaged").await;
    fs::write(&key, "short").unwrap();
    is_discarded(&state, &file, "damaged").await;
}

#[tokio::test]
async fn a_state_folder_that_cannot_be_written_is_no_error() {
    let state = State::new();
    let blocked = state.0.path().join("file");
    fs::write(&blocked, "").unwrap();
    let world = World::new().await;
    world.handle.keep_in(Some(&blocked), CacheBounds::default());
    serves(&world, false).await;
}

#[tokio::test]
async fn what_was_not_used_for_longest_goes_first() {
    let state = State::new();
    let bounds = CacheBounds { components: 2, ..CacheBounds::default() };
    let world = state.world_within(bounds).await;
    for number in [1, 2] {
        world.load(&[("p", variant(number))]).await.unwrap();
    }
    // The disk's clock may be too coarse to tell them apart.
    for file in state.files() {
        let earlier = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
        fs::File::open(file).unwrap().set_modified(earlier).unwrap();
    }
    // The first is used again by another process, so the second is the oldest when the third comes.
    let other = state.world_within(bounds).await;
    other.load(&[("p", variant(1))]).await.unwrap();
    assert_eq!(other.metric("cache_hits_total"), 1.0);
    world.load(&[("p", variant(3))]).await.unwrap();
    assert_eq!(world.metric("cache_discarded_total{reason=\"room\"}"), 1.0);
    assert_eq!(state.files().len(), 2);
    let last = state.world_within(bounds).await;
    last.load(&[("a", variant(1)), ("c", variant(3))]).await.unwrap();
    assert_eq!(last.metric("cache_hits_total"), 2.0);
}

#[tokio::test]
async fn the_bound_on_bytes_is_kept() {
    let state = State::new();
    let size = fs::metadata(state.filled().await).unwrap().len();
    let world = state.world_within(CacheBounds { bytes: size + size / 2, ..CacheBounds::default() }).await;
    for number in 1..=20 {
        world.load(&[("p", variant(number))]).await.unwrap();
        let bytes: u64 = state.files().iter().map(|file| fs::metadata(file).unwrap().len()).sum();
        assert!(bytes <= size + size / 2, "{bytes}");
    }
    assert!(world.metric("cache_discarded_total{reason=\"room\"}") > 0.0);
    let narrow = State::new();
    let world = narrow.world_within(CacheBounds { bytes: 100, ..CacheBounds::default() }).await;
    serves(&world, false).await;
    assert_eq!(world.metric("cache_write_failures_total"), 1.0);
    assert_eq!(narrow.files().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_may_share_a_folder() {
    let state = State::new();
    let (one, other) = (state.world().await, state.world().await);
    let plugins: Vec<_> = (0..8).map(|number| (format!("p{number}"), variant(number))).collect();
    let plugins: Vec<_> = plugins.iter().map(|(name, config)| (name.as_str(), config.clone())).collect();
    let (first, second) = tokio::join!(one.load(&plugins), other.load(&plugins));
    for loaded in [first.unwrap(), second.unwrap()] {
        let (head, _) = loaded.all.on_request(request(&[]), &mut visit()).await;
        assert_eq!(head.headers["x-region"], "eu-1");
    }
    for reason in ["foreign", "damaged", "incompatible", "unreadable", "room"] {
        for world in [&one, &other] {
            assert_eq!(world.metric(&format!("cache_discarded_total{{reason=\"{reason}\"}}")), 0.0, "{reason}");
        }
    }
    assert_eq!(state.files().len(), 8);
    let third = state.world().await;
    third.load(&plugins).await.unwrap();
    assert_eq!(third.metric("cache_hits_total"), 8.0);
}

#[tokio::test]
async fn a_component_of_two_plugins_is_compiled_once() {
    let world = World::new().await;
    let plugins: Vec<_> = ["a", "b", "c", "d"].map(|name| (name, region())).into();
    world.load(&plugins).await.unwrap();
    assert_eq!(world.metric("compile_duration_seconds_count"), 1.0);
}

#[tokio::test]
async fn what_is_not_granted_is_refused_from_the_cache_too() {
    let state = State::new();
    let granted = |grants| {
        let grants = serde_json::from_value(grants).unwrap();
        PluginConfig { grants, ..plugin("probe.wasm", json!({ "act": [] })) }
    };
    let all = json!({
        "identity": true, "connection": true, "clock": true, "random": true, "metrics": true, "tags": true,
        "key_value": {}, "upstreams": ["a"]
    });
    state.world().await.load(&[("p", granted(all.clone()))]).await.unwrap();
    let world = state.world().await;
    let faults = world.load(&[("p", granted(json!({})))]).await.err().unwrap();
    assert!(faults[0].to_string().contains("not granted to it"), "{faults:?}");
    world.load(&[("p", granted(all))]).await.unwrap();
    assert_eq!(world.metric("compile_duration_seconds_count"), 0.0);
}
