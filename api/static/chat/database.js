// The browser's database of conversations: IndexedDB with promises. Messages are records of their own, so that an answer
// that streams rewrites itself and not the conversation with its images.

const NAME = "omni";
const VERSION = 1;
const RUNNING = ["sending", "waiting", "streaming"];

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

export class Database {
  /** Rejects where the browser allows none, as in private windows of some browsers. */
  static async open() {
    const request = indexedDB.open(NAME, VERSION);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("conversations", { keyPath: "id" });
      const messages = request.result.createObjectStore("messages", { keyPath: ["conversation", "id"] });
      messages.createIndex("conversation", "conversation");
      messages.createIndex("state", "state");
    };
    return new Database(await done(request));
  }

  constructor(handle) {
    this.handle = handle;
    handle.onversionchange = () => handle.close(); // a newer page in another tab goes first
  }

  store(name) {
    return this.handle.transaction(name).objectStore(name);
  }

  conversation(id) {
    return done(this.store("conversations").get(id));
  }

  message(conversation, id) {
    return done(this.store("messages").get([conversation, id]));
  }

  conversations() {
    return done(this.store("conversations").getAll());
  }

  /** In the order in which they were written. */
  async messagesOf(id) {
    const found = await done(this.store("messages").index("conversation").getAll(id));
    return found.sort((one, other) => one.order - other.order);
  }

  /** The ids of the conversations with an answer that had not ended. */
  async unfinished() {
    const index = this.store("messages").index("state");
    const found = await Promise.all(RUNNING.map((state) => done(index.getAll(state))));
    return [...new Set(found.flat().map(({ conversation }) => conversation))];
  }

  /** Calls `visit(message)` for each message of all conversations, one at a time. */
  eachMessage(visit) {
    return new Promise((resolve, reject) => {
      const request = this.store("messages").openCursor();
      request.onerror = () => reject(request.error);
      request.onsuccess = () => {
        if (!request.result) return resolve();
        visit(request.result.value);
        request.result.continue();
      };
    });
  }

  /** All or nothing. */
  put(conversations, messages) {
    return this.write((stores) => {
      for (const one of conversations) stores.conversations.put(one);
      for (const one of messages) stores.messages.put(one);
    }, true);
  }

  /** `life`: only what is still in this one, or has no head. */
  remove(id, life = Infinity) {
    return this.write((stores) => {
      stores.conversations.get(id).onsuccess = ({ target: { result } }) => (result?.life ?? 0) <= life && this.removeFrom(stores, id);
    });
  }

  removeFrom(stores, id) {
    stores.conversations.delete(id);
    stores.messages.index("conversation").openKeyCursor(id).onsuccess = ({ target: { result: cursor } }) => {
      if (!cursor) return;
      stores.messages.delete(cursor.primaryKey);
      cursor.continue();
    };
  }

  removeMessages(messages) {
    return this.write((stores) => {
      for (const { conversation, id } of messages) stores.messages.delete([conversation, id]);
    }, true);
  }

  /** `isWhole`: `change` asks for nothing later, so that it is committed even if the page closes now. */
  write(change, isWhole = false) {
    return new Promise((resolve, reject) => {
      const transaction = this.handle.transaction(["conversations", "messages"], "readwrite");
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error);
      change({ conversations: transaction.objectStore("conversations"), messages: transaction.objectStore("messages") });
      if (isWhole) transaction.commit?.();
    });
  }
}
