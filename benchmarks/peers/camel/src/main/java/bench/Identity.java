package bench;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;

/** A document's id. */
final class Identity {
    private static final JsonFactory JSON = new JsonFactory();

    private Identity() {}

    /** Reads no further than the field: ids hold nothing that JSON escapes. */
    static String of(byte[] document) throws IOException {
        try (JsonParser parser = JSON.createParser(document)) {
            parser.nextToken();
            while (parser.nextToken() == JsonToken.FIELD_NAME) {
                boolean found = parser.currentName().equals("id");
                parser.nextToken();
                if (found) {
                    return parser.getText();
                }
                parser.skipChildren();
            }
        }
        throw new IOException("a document without an id");
    }
}
