// One tab at a time: the others wait, and go on when it closes, crashes or is done.

/** Browsers have no locks on plain http, but for localhost. */
export const hasLocks = Boolean(navigator.locks);

/** Does `work` as soon as no other tab does something under this name. Resolves to what `work` does. */
export const alone = (name, work) => (hasLocks ? navigator.locks.request(`omni.${name}`, work) : work());
