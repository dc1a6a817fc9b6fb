use std::io::Write as _;
use std::sync::Arc;

use super::*;
use crate::image::archive::Content;

/// A layer with one file.
fn layer(name: &str, contents: &str) -> Result<StoredLayer> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(contents.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    builder.append_data(&mut header, name, contents.as_bytes())?;
    let bytes = builder.into_inner()?;
    let mut file = tempfile::tempfile()?;
    file.write_all(&bytes)?;
    Ok(StoredLayer {
        diff_id: digest(&bytes),
        size: bytes.len() as u64,
        tar: Arc::new(file),
    })
}

fn image(name: &str, layers: &[&StoredLayer]) -> StoredImage {
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
    let config = json!({"os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    StoredImage {
        references: vec![name.to_owned()],
        config: config.to_string().into_bytes(),
        layers: layers.iter().copied().cloned().collect(),
    }
}

fn text(root: &Archive, path: &str) -> Result<String> {
    Ok(String::from_utf8(root.read(path)?)?)
}

fn target(root: &Archive, path: &str) -> String {
    match root.get(path).map(|entry| &entry.content) {
        Some(Content::Symlink(target)) => target.clone(),
        other => panic!("{path}: {other:?}"),
    }
}

#[test]
fn store_leads_from_a_name_to_the_files_of_each_layer() -> Result<()> {
    let (bottom, top) = (layer("a", "one")?, layer("b", "four")?);
    let mut root = Archive::default();
    let whole = image("docker.io/library/x:1", &[&bottom, &top]);
    write(
        &mut root,
        "s",
        &[image("k8s.gcr.io/y:2", &[&bottom]), whole],
    )?;

    let known = "s/lib/docker/image/overlay2";
    let names: serde_json::Value =
        serde_json::from_str(&text(&root, &format!("{known}/repositories.json"))?)?;
    let id = names["Repositories"]["x"]["x:1"].as_str().context("x:1")?;
    assert!(names["Repositories"]["k8s.gcr.io/y"]["k8s.gcr.io/y:2"].is_string());
    let config = root.read(&format!("{known}/imagedb/content/sha256/{}", hex(id)))?;
    assert_eq!(digest(&config), id);

    let chain = digest(format!("{} {}", bottom.diff_id, top.diff_id).as_bytes());
    let of = |chain: &str, name: &str| format!("{known}/layerdb/sha256/{}/{name}", hex(chain));
    assert_eq!(text(&root, &of(&chain, "diff"))?, top.diff_id);
    assert_eq!(text(&root, &of(&chain, "parent"))?, bottom.diff_id);
    assert_eq!(text(&root, &of(&chain, "size"))?, "4");
    assert!(root.get(&of(&bottom.diff_id, "parent")).is_none());
    assert!(root.get(&of(&chain, "tar-split.json.gz")).is_some());

    let drivers = "s/lib/docker/overlay2";
    let cache = text(&root, &of(&chain, "cache-id"))?;
    let lower = text(&root, &format!("{drivers}/{cache}/lower"))?;
    let below = target(&root, &format!("{drivers}/{lower}"));
    assert_eq!(below, format!("../{}/diff", hex(&bottom.diff_id)));
    let files = target(
        &root,
        &format!("{drivers}/{}", below.trim_start_matches("../")),
    );
    assert_eq!(text(&root, &format!("{}/a", &files[1..]))?, "one");
    let own = target(&root, &format!("{drivers}/{cache}/diff"));
    assert_eq!(text(&root, &format!("{}/b", &own[1..]))?, "four");
    // Only root reaches programs of images on the host.
    let guard = own[1..].trim_end_matches("/fs");
    for folder in [layers::LAYERS, guard] {
        assert_eq!(
            root.get(folder).map(|e| e.mode & 0o777),
            Some(0o700),
            "{folder}"
        );
    }
    Ok(())
}

/// An older state names layers by content, so it cannot lead to other files in a new image.
#[test]
fn names_of_a_layer_do_not_depend_on_other_images() -> Result<()> {
    let (one, two) = (layer("a", "one")?, layer("b", "two")?);
    let links = |order: &[&StoredLayer]| -> Result<BTreeMap<String, String>> {
        let mut root = Archive::default();
        let images: Vec<_> = order.iter().map(|layer| image("x:1", &[layer])).collect();
        write(&mut root, "s", &images)?;
        let path = |layer: &StoredLayer| {
            format!("s/lib/docker/overlay2/l/{}", link(&layer.diff_id).unwrap())
        };
        Ok(order
            .iter()
            .map(|layer| (layer.diff_id.clone(), target(&root, &path(layer))))
            .collect())
    };
    let alone = links(&[&two])?;
    let both = links(&[&one, &two])?;
    assert_eq!(alone[&two.diff_id], both[&two.diff_id]);
    Ok(())
}

/// `base64.b32encode(bytes.fromhex(chain)[:16])` of Python, without its padding.
#[test]
fn short_name_is_base32() -> Result<()> {
    let chain = "sha256:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    assert_eq!(link(chain)?, "AAAQEAYEAUDAOCAJBIFQYDIOB4");
    assert!(link("sha256:zz").is_err());
    Ok(())
}

#[test]
fn names_of_docker_hub_are_short() {
    for (full, short) in [
        ("docker.io/library/nginx:1", "nginx:1"),
        ("docker.io/calico/node:v3", "calico/node:v3"),
        ("quay.io/library/x:1", "quay.io/library/x:1"),
        ("localhost:5000/x:1", "localhost:5000/x:1"),
    ] {
        assert_eq!(familiar(full), short);
    }
}

#[test]
fn image_with_more_layers_than_docker_mounts_is_refused() -> Result<()> {
    let one = layer("a", "one")?;
    let many = vec![&one; MAX_LAYERS + 1];
    let found = write(&mut Archive::default(), "s", &[image("x:1", &many)]);
    let error = found.expect_err("too many layers").to_string();
    assert!(error.contains("`x:1` has 127 layers"), "{error}");
    Ok(())
}
