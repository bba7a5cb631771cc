// JSON that people paste into the settings: tools, a schema, a logit bias. Each `read` throws an Error that says what to change.

function readJson(text, what) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`${what} must be JSON: ${error.message}.`);
  }
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/** A list of tools as the API takes it, from such a list, one tool, a request that has `tools`, or what an MCP server lists. */
export function readTools(text) {
  const value = readJson(text, "The tools");
  const list = Array.isArray(value) ? value : (value?.tools ?? value?.result?.tools ?? [value]);
  if (!Array.isArray(list)) throw new Error("`tools` must be a list.");
  return list.map((tool, index) => {
    if (!nameOf(tool)) throw new Error(`Tool ${index + 1} has no name. Give each tool a "name", a "description" and "parameters".`);
    if (!tool.inputSchema) return tool;
    const { name, description, inputSchema: parameters } = tool; // as MCP writes it
    return { type: "function", function: { name, description, parameters } };
  });
}

const nameOf = (tool) => tool?.function?.name ?? tool?.custom?.name ?? tool?.name;

export const namesOfTools = (text) => readTools(text).map(nameOf);

/** `response_format` for a schema, bare or as a request carries it; {} asks for any JSON object. */
export function readFormat(text) {
  const value = readJson(text, "The schema");
  if (!isObject(value)) throw new Error('The schema must be a JSON object, as in {"type": "object", "properties": {}}.');
  if (value.type === "json_schema" || value.type === "json_object") return value;
  if (Object.keys(value).length === 0) return { type: "json_object" };
  const named = isObject(value.schema) ? value : { schema: value };
  return { type: "json_schema", json_schema: { name: "answer", strict: true, ...named } };
}

export function readBias(text) {
  const value = readJson(text, "The bias");
  const isRight = ([id, bias]) => /^\d{1,9}$/.test(id) && typeof bias === "number" && Math.abs(bias) <= 100;
  if (isObject(value) && Object.entries(value).every(isRight)) return value;
  throw new Error('The bias must name token ids with numbers from -100 to 100, as in {"1234": -100}.');
}
