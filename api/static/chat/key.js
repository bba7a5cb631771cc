// The API keys, stored in this browser only.

import { recall, remember } from "./recall.js";

const DEFAULT_KEY = "sk-local";

export const apiKey = () => recall("key", DEFAULT_KEY);
export const setApiKey = (key) => remember("key", key.trim() || DEFAULT_KEY);

/** The board's key, which may be another one. */
export const adminKey = () => recall("admin_key", apiKey());
export const setAdminKey = (key) => remember("admin_key", key.trim());
