"""Does what huggingface_hub does with a cache that this package filled, and fills one for it; run by TestPeer.

  peer.py find REPO FILE...    offline: prints the path of each file, or "no_exist" or "none", and the snapshot's directory
  peer.py pull REPO            online: pulls what transformers would; prints the directory
"""

import sys

import huggingface_hub
from huggingface_hub import snapshot_download, try_to_load_from_cache


def main():
    verb, repo, *files = sys.argv[1:]
    if verb == "find":
        for name in files:
            found = try_to_load_from_cache(repo, name)
            print(found if isinstance(found, str) else "none" if found is None else "no_exist")
        print(snapshot_download(repo, local_files_only=True))
        revisions = [r for c in huggingface_hub.scan_cache_dir().repos for r in c.revisions]
        print(" ".join(f"{r.commit_hash}:{','.join(sorted(r.refs))}" for r in revisions))
    else:
        print(snapshot_download(repo, allow_patterns=["*.json", "*.safetensors"], ignore_patterns=["unused.safetensors"]))


main()
