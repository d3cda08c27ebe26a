// Asks a bothy socket with the official client and prints what came, as JSON.
// node client.cjs SOCKET MODEL [EMBEDDING_MODEL]
const OpenAI = require("openai");
const { Agent, fetch } = require("undici");

const [socket, model, embedder] = process.argv.slice(2);
const client = new OpenAI({
  baseURL: "http://bothy/v1",
  apiKey: "unused",
  maxRetries: 0,
  fetch,
  fetchOptions: { dispatcher: new Agent({ connect: { socketPath: socket } }) },
});
const messages = [{ role: "user", content: "What is the capital of France?" }];

async function main() {
  const out = { models: [], chat: "", stream: "", chunks: 0, finish: "", completion: "", embedding: 0, missing: {} };
  for await (const m of client.models.list()) out.models.push(m.id);

  const chat = await client.chat.completions.create({ model, messages, temperature: 0, max_tokens: 32 });
  out.chat = chat.choices[0].message.content;

  const stream = await client.chat.completions.create({ model, messages, temperature: 0, max_tokens: 32, stream: true });
  for await (const chunk of stream) {
    out.chunks++;
    out.stream += chunk.choices[0]?.delta?.content ?? "";
    out.finish = chunk.choices[0]?.finish_reason ?? out.finish;
  }

  const completion = await client.completions.create({ model, prompt: "The capital of France is", temperature: 0, max_tokens: 8 });
  out.completion = completion.choices[0].text;

  if (embedder) {
    const e = await client.embeddings.create({ model: embedder, input: "one sentence" });
    out.embedding = e.data[0].embedding.length;
  }
  try {
    await client.chat.completions.create({ model: "nobody", messages });
  } catch (e) {
    out.missing = { name: e.constructor.name, status: e.status, code: e.code, type: e.type };
  }
  console.log(JSON.stringify(out));
}

main().then(() => process.exit(0), (e) => {
  console.error(e);
  process.exit(1);
});
