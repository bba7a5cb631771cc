// A whole number as text: "1,204,000". The browser's own way takes 17 ms when it is first asked, which delays the first token.

export const grouped = (number) => String(number || 0).replace(/\B(?=(\d{3})+$)/g, ",");
