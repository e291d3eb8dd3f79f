"""Drives a server with OpenAI's own Python client: openai_client.py BASE TOKEN. It prints what the client made of the answers, as JSON."""
import json
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key=sys.argv[2], max_retries=0)
content = [{"type": "video_url", "video_url": {"url": "stream://front_door?last=10m"}}, {"type": "text", "text": "Is there a car?"}]
messages = [{"role": "user", "content": content}]
out = {"models": [m.id for m in client.models.list()]}
first = client.chat.completions.create(model="afterimage", messages=messages, max_tokens=50, seed=1, extra_body={"x_max_visual_tokens": 500})
out["text"] = first.choices[0].message.content
out["evidence"] = [e["stream"] for e in first.model_extra["x_evidence"]]
messages += [first.choices[0].message, {"role": "user", "content": "And what colour was it?"}]
stream = client.chat.completions.create(model="afterimage", messages=messages, stream=True)
out["deltas"] = [c.choices[0].delta.content for c in stream if c.choices[0].delta.content]
try:
    client.chat.completions.create(model="gpt-4o", messages=messages)
except openai.NotFoundError as e:
    out["error"] = e.code
print(json.dumps(out))
