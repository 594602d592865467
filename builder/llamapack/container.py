"""The payload of an executable: an ordinary ZIP behind the runtime, and what it must hold.

The file, in order. All ZIP offsets count from the first byte of the whole file:

    runtime                  the executable for the target, as the linker made it
    licenses/...             stored      texts that must travel with the model and with llamapack
    web/...                  deflated    the page (stored where deflating does not help)
    model.gguf               stored      its data begins at a multiple of 64 KiB of the file: the
                                         local header's extra field 0xD935 is the padding (as
                                         zipalign does it), or a gap of zeros before the header
    manifest.json            stored      UTF-8, sorted keys, no spaces; written last because it
                                         holds the hashes of all that was copied before it
    central directory        ZIP64 records only where a size or an offset needs them
    end record               with a comment of 81 bytes: "llamapack sha256 " and 64 hex digits

Names are UTF-8 (flag bit 11 only when not ASCII), times are 1980-01-01, "made by" is Unix 2.0
with mode 0644, CRCs stand in the local headers (no data descriptors). So two builds of the same
input give the same bytes.

manifest.json, format 1. Unknown keys are to be ignored; another major `format` is refused:

    {"format": 1,
     "builder": "llamapack 0.1.0",
     "target": "linux-x86_64",
     "name": "",                        what the sender calls it; "" when not given
     "system": "",                      default system prompt; "" when not given
     "args": ["--temp", "0.7"],         default arguments, one argv string each
     "model": "model.gguf",             name of the weights' entry; "" without weights
     "chat_template_sha256": "",        of tokenizer.chat_template's bytes; "" when it has none
     "license": {"name": "apache-2.0",  general.license of the model; ""
                 "files": ["licenses/model/LICENSE"],      entries with texts, sorted
                 "notice": ""},         a line that must be shown, such as "Built with Llama"
     "runtime": {"size": 1234567,       bytes before the first entry
                 "sha256": "hex",       of those bytes less the ranges in "skip"
                 "skip": [[216, 4], [288, 8]]},   offset and length, ascending: what signing
                                        changes (PE CheckSum and security entry, Mach-O signature)
     "entries": [                       every entry but manifest.json, in the order of the file
       {"name": "model.gguf",
        "size": 98362432,               bytes after inflating
        "stored": 98362432,             bytes in the file
        "sha256": "hex",                of the bytes as they lie in the file; when "chunks" is
                                        there: of the concatenated 32-byte digests (the root)
        "chunk_size": 67108864,         only with "chunks"
        "chunks": ["hex", ...]}]}       SHA-256 of each chunk; model.gguf has them, others do not

Every byte is covered: the runtime and the entries' data by the manifest; all the rest by the
comment of the end record. Its SHA-256 is taken over the bytes from runtime.size up to the end of
the 22 fixed bytes of the end record, in file order, leaving out the data of the entries listed in
the manifest (so local headers, padding, the manifest itself, the directory and the fixed part of
the end record are in it). What follows the comment (an Authenticode signature) is not ours.

SPDX-License-Identifier: Apache-2.0
"""
